"""Weights as device arrays: from a checkpoint, or random ones for measurements."""

import math
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.typing import DTypeLike

from jaxllm.errors import CheckpointError
from jaxllm.models.loading.checkpoint import Checkpoint

# Buffers that old checkpoints keep and every model computes itself.
_HARMLESS = ("*rotary_emb.inv_freq", "*rope.freqs", "*attn.masked_bias")
# Each worker has one parameter on the host at a time, from the file to the device. One alone reaches 4.5 GB/s to an
# H100, four reach 15.
_NUM_WORKERS = 4
_CAST_VALUES = 1 << 16
_MAX_LISTED = 10


@dataclass(frozen=True, kw_only=True)
class WeightTarget:
    """One parameter of the model and how it is made."""

    name: str
    """Our parameter path, such as `layers.0.attention.qkv.weight`."""
    sources: tuple[str, ...]
    """The Hugging Face names of the tensors it is made of."""
    assemble: Callable[[list[np.ndarray]], np.ndarray] | None
    """Makes the parameter of the sources' host arrays, which may be read-only; `None` takes the only source as is."""
    shape: tuple[int, ...]
    dtype: DTypeLike
    sharding: jax.sharding.Sharding

    def __post_init__(self) -> None:
        assert self.assemble is not None or len(self.sources) == 1, f"{self.name}: several sources need an assemble"

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def load_weights(
    checkpoint: Checkpoint,
    targets: Sequence[WeightTarget],
    *,
    ignored: Collection[str] = (),
    progress: Callable[[int], None] | None = None,
) -> list[jax.Array]:
    """Gives the targets' device arrays in order; the host holds a few tensors at a time.

    `ignored` are patterns (fnmatch) of checkpoint names that no target has to use. `progress` is called after each
    array with its number of bytes; they sum up to the targets' `num_bytes`.
    """
    _check_names(checkpoint, targets, ignored)
    arrays = []
    with ThreadPoolExecutor(_NUM_WORKERS, thread_name_prefix="weights") as pool:
        for target, array in zip(targets, pool.map(partial(_load, checkpoint), targets), strict=True):
            arrays.append(array)
            if progress is not None:
                progress(target.num_bytes)
    return arrays


def dummy_weights(targets: Sequence[WeightTarget], *, seed: int) -> list[jax.Array]:
    """Gives random arrays made on the devices: matrices small and centred, norm weights one, other vectors zero.

    The values depend on seed, name and shape, not on the sharding. One program is compiled per distinct shape.
    """
    fills = {}
    arrays = []
    for target in targets:
        key = (target.shape, np.dtype(target.dtype), target.sharding)
        if key not in fills:
            fills[key] = _compile_fill(*key)
        salt = np.uint32(zlib.crc32(f"{seed} {target.name}".encode()))
        scale, shift = _dummy_range(target)
        arrays.append(fills[key](salt, np.float32(scale), np.float32(shift)))
    return arrays


def _check_names(checkpoint: Checkpoint, targets: Sequence[WeightTarget], ignored: Collection[str]) -> None:
    present = set(checkpoint.names())
    wanted = {source for target in targets for source in target.sources}
    patterns = (*_HARMLESS, *ignored)
    unexpected = [name for name in present - wanted if not any(fnmatchcase(name, pattern) for pattern in patterns)]
    problems = [
        f"{len(names)} {what}: {_listing(names)}"
        for what, names in (("missing", wanted - present), ("unexpected", unexpected))
        if names
    ]
    shapes = [
        f"{target.sources[0]} is {checkpoint.shape(target.sources[0])}, expected {target.shape}"
        for target in targets
        if target.assemble is None and target.sources[0] in present
        if checkpoint.shape(target.sources[0]) != target.shape
    ]
    if shapes:
        problems.append(f"{len(shapes)} of a wrong shape: {_listing(shapes)}")
    if problems:
        raise CheckpointError(f"The tensors of {checkpoint.location} do not fit the model. {'; '.join(problems)}.")


def _listing(names: Collection[str]) -> str:
    rest = len(names) - _MAX_LISTED
    return ", ".join(sorted(names)[:_MAX_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _load(checkpoint: Checkpoint, target: WeightTarget) -> jax.Array:
    host = _host_array(checkpoint, target)
    array = jax.make_array_from_callback(target.shape, target.sharding, host.__getitem__)
    return array.block_until_ready()  # else pending transfers would keep many host arrays alive


def _host_array(checkpoint: Checkpoint, target: WeightTarget) -> np.ndarray:
    arrays = [checkpoint.read(name) for name in target.sources]
    shapes = ", ".join(f"{name} {array.shape}" for name, array in zip(target.sources, arrays, strict=True))
    try:
        host = arrays[0] if target.assemble is None else target.assemble(arrays)
    except ValueError as error:
        raise CheckpointError(
            f"{checkpoint.location}: {target.name} {target.shape} cannot be made of {shapes}: {error}."
        ) from error
    if host.shape != target.shape:
        raise CheckpointError(
            f"{checkpoint.location}: {target.name} must have the shape {target.shape}, but {shapes} give {host.shape}."
        )
    # On the CPU a device array may share the host array's memory, which must then be no mapped file.
    devices: Iterable[jax.Device] = target.sharding.addressable_devices
    is_on_cpu = any(device.platform == "cpu" for device in devices)
    return _cast(host, np.dtype(target.dtype), copy=is_on_cpu)


def _cast(host: np.ndarray, dtype: np.dtype, *, copy: bool) -> np.ndarray:
    if host.dtype != np.float32 or dtype != ml_dtypes.bfloat16:
        return np.ascontiguousarray(host).astype(dtype, copy=copy)
    return _float32_to_bfloat16(np.ascontiguousarray(host))


def _float32_to_bfloat16(host: np.ndarray) -> np.ndarray:
    """Rounds to nearest even; several times faster than the cast of ml_dtypes, and without holding the GIL."""
    bits = host.reshape(-1).view(np.uint32)
    rounded = np.empty(bits.shape, np.uint16)
    for start in range(0, len(bits), _CAST_VALUES):
        piece = bits[start : start + _CAST_VALUES]
        result = (piece + (((piece >> 16) & 1) + np.uint32(0x7FFF))) >> 16
        is_nan = (piece & 0x7FFFFFFF) > 0x7F800000
        if is_nan.any():  # rounding could carry a NaN into the sign
            result[is_nan] = (piece[is_nan] >> 16) | 0x40
        rounded[start : start + _CAST_VALUES] = result
    return rounded.view(ml_dtypes.bfloat16).reshape(host.shape)


def _dummy_range(target: WeightTarget) -> tuple[float, float]:
    """Gives the standard deviation and the mean."""
    if len(target.shape) < 2:
        return 0.0, 1.0 if "norm" in target.name and not target.name.endswith("bias") else 0.0
    return min(0.02, max(target.shape[-2:]) ** -0.5), 0.0


def _compile_fill(
    shape: tuple[int, ...], dtype: np.dtype, sharding: jax.sharding.Sharding
) -> Callable[[np.uint32, np.float32, np.float32], jax.Array]:
    assert jnp.issubdtype(dtype, jnp.floating), f"dummy weights are floating point, not {dtype}"

    def fill(salt: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
        # A hash of the element's index costs one pass over memory, and each device computes its own part.
        bits = _mix(_flat_index(shape) ^ _mix(salt))
        uniform = bits.astype(jnp.float32) * np.float32(2.0**-31) - np.float32(1.0)
        return (uniform * (scale * np.float32(3.0**0.5)) + shift).astype(dtype)

    return jax.jit(fill, out_shardings=sharding)


def _flat_index(shape: tuple[int, ...]) -> jax.Array:
    index = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        index = index * np.uint32(size & 0xFFFFFFFF) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    return index


def _mix(bits: jax.Array) -> jax.Array:
    """Spreads 32 bits over 32 bits, one to one."""
    for factor in (0x85EBCA6B, 0xC2B2AE35):
        bits = (bits ^ (bits >> 15)) * np.uint32(factor)
    return bits ^ (bits >> 16)
