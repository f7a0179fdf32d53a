"""A weight file as bytes in memory, read from disk only where touched."""

import mmap
from pathlib import Path

import numpy as np

from jaxllm.errors import CheckpointError


def map_file(path: Path) -> np.ndarray:
    """Gives the whole file as a read-only uint8 array; the mapping lives as long as any view of it."""
    try:
        with path.open("rb") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)
    except OSError as error:
        raise CheckpointError(f"Cannot read the weight file {path}: {error.strerror or error}.") from error
    except ValueError as error:  # mmap refuses an empty file
        raise CheckpointError(f"The weight file {path} is empty: download it again.") from error
