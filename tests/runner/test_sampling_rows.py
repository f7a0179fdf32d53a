import jax
import numpy as np

from jaxllm.runner.layout import FLAGS, ROW_PARAMETERS, Bucket, Layout
from jaxllm.runner.sampling_rows import ROW_FIELDS, pack_rows, rows_shape, unpack_rows

LAYOUT = Layout(Bucket(num_tokens=3, num_rows=3, has_chunks=False), pages_per_request=2)
UNUSED, MOST = 9, 5


def pack(**values: object) -> jax.Array:
    """The array of a step whose fields have these values, else zeros."""
    buffer = np.zeros(LAYOUT.size, np.int32)
    views = LAYOUT.views(buffer)
    for name, value in values.items():
        views[name][...] = value
    return jax.jit(lambda buffer: pack_rows(LAYOUT.unpack(buffer), most=MOST, unused_slot=UNUSED))(buffer)


def test_fields_keep_their_values_and_types() -> None:
    rng = np.random.default_rng(0)
    values = {name: rng.integers(0, 1000, 3) for name in ROW_FIELDS if name != "flags"}
    values |= {"temperature": np.array([0.7, 0.0, 1e-30]), "seed_high": np.array([0xFFFFFFFF, 0, 1], np.uint32)}
    packed = pack(**values)
    assert (packed.shape, packed.dtype) == rows_shape(MOST)
    fields = jax.jit(unpack_rows)(packed[:, :3])
    assert set(ROW_PARAMETERS) < set(fields)
    for name, value in values.items():
        assert fields[name].dtype == LAYOUT.fields[name][1]
        np.testing.assert_array_equal(fields[name], np.asarray(value).astype(fields[name].dtype))


def test_flags_come_one_by_one() -> None:
    fields = unpack_rows(pack(flags=0b10010))
    assert [name for name in FLAGS if fields[name]] == ["any_penalties", "any_logprobs"]


def test_rows_beyond_the_step_s_write_where_no_one_reads() -> None:
    fields = unpack_rows(pack(slot=[1, 2, 3], write_slot=[1, 2, 3], temperature=1.0))
    assert fields["write_slot"].tolist() == fields["slot"].tolist() == [1, 2, 3, UNUSED, UNUSED]
    assert fields["temperature"].tolist() == [1.0, 1.0, 1.0, 0.0, 0.0]
