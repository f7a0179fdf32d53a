"""A sum and its root mean square norm, and a norm of what is added: what stands between two blocks of a layer."""
