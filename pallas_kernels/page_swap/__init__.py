"""Pages of the KV cache go to pinned host memory and come back."""
