"""What the sampler must know of a step's rows, as one array on the device: every step leaves it there."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jaxllm.runner.layout import FLAGS, ROW_PARAMETERS, row_parameter_dtype
from jaxllm.runner.sampler import SamplingInputs

ROW_FIELDS = ("slot", "write_slot", "draw_position", *ROW_PARAMETERS, "flags")
"""Rows of the array, each with one word for every row of a step; the flags are the same for all of these."""


def pack_rows(fields: Mapping[str, jax.Array], *, most: int, unused_slot: int) -> Int[Array, "fields most"]:
    """A step's fields of these names, and beyond its rows rows that draw greedily and write to `unused_slot`."""
    rows = fields["slot"].shape[0]
    unused = {"slot": unused_slot, "write_slot": unused_slot}
    columns = []
    for name in ROW_FIELDS:
        column = jnp.broadcast_to(jax.lax.bitcast_convert_type(fields[name], jnp.int32), (rows,))
        columns.append(jnp.pad(column, (0, most - rows), constant_values=unused.get(name, 0)))
    return jnp.stack(columns)


def unpack_rows(packed: Int[Array, "fields rows"]) -> dict[str, jax.Array]:
    """The fields by name, of their own types; the flags one by one."""
    fields = {
        name: jax.lax.bitcast_convert_type(words, row_parameter_dtype(name)) if name in ROW_PARAMETERS else words
        for name, words in zip(ROW_FIELDS, packed, strict=True)
    }
    flags = fields.pop("flags")[0]
    return fields | {name: (flags >> bit) & 1 != 0 for bit, name in enumerate(FLAGS)}


def sampling_inputs(fields: Mapping[str, jax.Array], constraints: Mapping[str, jax.Array]) -> SamplingInputs:
    """What `sample` takes, of unpacked fields and the constraints of the same rows."""
    given = {**fields, **constraints, "position": fields["draw_position"]}
    return SamplingInputs(**{name: given[name] for name in SamplingInputs._fields})


def rows_shape(most: int) -> tuple[tuple[int, int], np.dtype]:
    """Shape and dtype of the array."""
    return (len(ROW_FIELDS), most), np.dtype(np.int32)
