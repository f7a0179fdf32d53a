"""Attention over a paged key-value cache, and the cache write that belongs to it."""
