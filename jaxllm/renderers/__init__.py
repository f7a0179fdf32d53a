"""Modules under the paths at which vLLM has them."""
