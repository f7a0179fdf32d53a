import jax
import numpy as np

from jaxllm.runner.layout import Bucket, Layout

MIXED = Layout(Bucket(num_tokens=256, num_rows=3, has_chunks=True), pages_per_request=2)
DECODE = Layout(Bucket(num_tokens=2, num_rows=2, has_chunks=False), pages_per_request=2)


def test_each_word_of_the_buffer_belongs_to_at_most_one_field() -> None:
    buffer = np.zeros(MIXED.size, np.int32)
    num_words = 0
    for view in MIXED.views(buffer).values():
        view.view(np.int32)[...] += 1
        num_words += view.size
    assert buffer.max() == 1
    assert buffer.sum() == num_words


def test_fields_start_at_multiples_of_16_bytes() -> None:
    buffer = np.zeros(MIXED.size, np.int32)
    starts = [view.__array_interface__["data"][0] for view in MIXED.views(buffer).values() if view.size]
    assert {(start - starts[0]) % 16 for start in starts} == {0}


def test_the_step_reads_the_words_that_the_host_wrote() -> None:
    rng = np.random.default_rng(0)
    buffer = np.zeros(MIXED.size, np.int32)
    views = MIXED.views(buffer)
    for view in views.values():
        view[...] = rng.integers(0, 1000, view.shape)
    fields = jax.jit(MIXED.unpack)(buffer)
    assert fields.keys() == views.keys()
    for name, view in views.items():
        assert fields[name].dtype == view.dtype
        np.testing.assert_array_equal(fields[name], view)


def test_seeds_and_fractions_keep_all_their_bits() -> None:
    buffer = np.zeros(DECODE.size, np.int32)
    views = DECODE.views(buffer)
    views["seed_low"][:] = [0xFFFFFFFF, 0x80000001]
    views["temperature"][:] = [0.7, -1e-30]
    fields = jax.jit(DECODE.unpack)(buffer)
    assert np.asarray(fields["seed_low"]).tolist() == [0xFFFFFFFF, 0x80000001]
    assert np.asarray(fields["temperature"]).tolist() == np.array([0.7, -1e-30], np.float32).tolist()


def test_a_bucket_with_chunks_has_room_for_a_tile_cut_short_in_every_row() -> None:
    assert MIXED.bucket.num_tiles == 2 + 3
    assert MIXED.fields["tiles"][0] == (5, 3)


def test_a_decode_bucket_has_neither_tiles_nor_targets() -> None:
    assert DECODE.fields["tiles"][0] == (0, 3)
    assert DECODE.fields["targets"][0] == (0,)


def test_names_of_programs_tell_their_shapes() -> None:
    assert MIXED.bucket.name == "mixed_256x3"
    assert DECODE.bucket.name == "decode_2x2"
