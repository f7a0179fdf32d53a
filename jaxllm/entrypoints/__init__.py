"""Modules under the paths at which older vLLM releases have them."""
