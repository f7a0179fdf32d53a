"""How prompt chunks are cut for the attention kernels."""

TILE_TOKENS = 128
"""Most consecutive tokens of one request in a tile."""
