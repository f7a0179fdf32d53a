"""Scales that a checkpoint brings for a KV cache of 8 bits, worked into the projections.

Such a cache holds keys / k_scale and values / v_scale. Both are linear in their projections, so these are scaled
instead, queries and outputs the other way round, and no step knows of it. A scale is rounded up to a power of two:
then scaling is exact in every dtype, and nothing exceeds the range that the scale was made for. Names as vLLM reads
them: `k_scale`, `v_scale` or `kv_scale` of a layer's attention or of its projections, `output_scale` of k_proj and
v_proj. Those of queries and probabilities are for arithmetic in 8 bits, which the kernels don't use.
"""

from __future__ import annotations

import logging
import math
import re

import numpy as np

from jaxllm.errors import CheckpointError
from jaxllm.models.loading.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

_SCALE = re.compile(
    r"(?P<attention>.+\.self_attn)\."
    r"(?:(?:attn\.|(?:[qkv]|qkv)_proj\.)?(?P<kind>k|v|kv|q|prob)_scale|(?P<projection>[kv])_proj\.output_scale)"
)


class ScaledCheckpoint:
    """A checkpoint without its scales, and with them in its projections if `is_applied`."""

    def __init__(self, checkpoint: Checkpoint, *, is_applied: bool, norm_offset: float = 0.0) -> None:
        """`norm_offset` is what the model adds to the weights of its query and key norms.

        Raises CheckpointError for scales other than one positive number a layer.
        """
        self.location = checkpoint.location
        self._checkpoint = checkpoint
        self._norm_offset = norm_offset
        self._names = {name for name in checkpoint.names() if not _SCALE.fullmatch(name)}
        self._factors = self._read_factors() if is_applied else {}
        if self._factors:
            logger.info("The checkpoint's scales for the KV cache are applied, rounded up to powers of two")

    def names(self) -> list[str]:
        return [name for name in self._checkpoint.names() if name in self._names]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._checkpoint.shape(name)

    def read(self, name: str) -> np.ndarray:
        array = self._checkpoint.read(name)
        factor = self._factors.get(name, 1.0)
        if factor == 1.0:
            return array
        if name.endswith("_norm.weight") and self._norm_offset:
            wide = (array.astype(np.float32) + self._norm_offset) * factor - self._norm_offset
            return wide.astype(array.dtype)
        return array * np.asarray(factor, array.dtype)

    def _read_factors(self) -> dict[str, float]:
        """What each tensor is multiplied by, by name."""
        factors: dict[str, float] = {}
        for name in self._checkpoint.names():
            match = _SCALE.fullmatch(name)
            if match is None or match["kind"] in ("q", "prob"):
                continue
            kind, scale = match["kind"] or match["projection"], self._read_scale(name)
            if "k" in kind:
                factors |= self._key_factors(match["attention"], scale)
            if "v" in kind:
                factors |= self._value_factors(match["attention"], scale)
        return factors

    def _read_scale(self, name: str) -> float:
        """The power of two from the scale up."""
        values = np.asarray(self._checkpoint.read(name), np.float64).reshape(-1)
        if values.size != 1 or not (math.isfinite(values[0]) and values[0] > 0):
            found = f"{values.size} numbers" if values.size != 1 else f"{values[0]}"
            raise CheckpointError(f"{self.location}: {name} must be one positive number, got {found}.")
        return 2.0 ** math.ceil(math.log2(values[0]))

    def _key_factors(self, attention: str, scale: float) -> dict[str, float]:
        """A norm of keys would undo what is done before it, so its own weights are scaled."""
        has_norm = f"{attention}.k_norm.weight" in self._names
        queries, keys = ("q_norm", "k_norm") if has_norm else ("q_proj", "k_proj")
        return self._of_both(f"{attention}.{queries}", scale) | self._of_both(f"{attention}.{keys}", 1 / scale)

    def _value_factors(self, attention: str, scale: float) -> dict[str, float]:
        outputs = {f"{attention}.{name}.weight": scale for name in ("o_proj", "out_proj")}
        return self._of_both(f"{attention}.v_proj", 1 / scale) | outputs

    def _of_both(self, module: str, factor: float) -> dict[str, float]:
        return {f"{module}.{part}": factor for part in ("weight", "bias")}
