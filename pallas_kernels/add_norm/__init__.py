"""A sum and its root mean square norm: what stands between two blocks of a layer."""
