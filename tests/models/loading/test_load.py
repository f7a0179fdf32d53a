import threading

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from jaxllm.errors import CheckpointError
from jaxllm.models.loading import load
from jaxllm.models.loading.load import WeightTarget, dummy_weights, load_weights
from jaxllm.models.loading.safetensors_file import SafetensorsFile
from tests.models.loading.helpers import write_safetensors

VALUES = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.full((2, 3), 7, np.float32)}


class MemoryCheckpoint:
    """Tensors in memory that counts how many are being held."""

    location = "memory"

    def __init__(self, tensors):
        self.tensors = tensors
        self.num_reads = 0
        self.lock = threading.Lock()

    def names(self):
        return list(self.tensors)

    def shape(self, name):
        return self.tensors[name].shape

    def read(self, name):
        with self.lock:
            self.num_reads += 1
        return self.tensors[name]


def make_target(name="w", sources=("a",), **changes):
    fields = {"assemble": None, "shape": (2, 3), "dtype": jnp.float32, "sharding": one_device()} | changes
    return WeightTarget(name=name, sources=tuple(sources), **fields)


def one_device():
    return SingleDeviceSharding(jax.devices()[0])


def test_loads_in_order_onto_the_device():
    first, second = load_weights(MemoryCheckpoint(VALUES), [make_target(sources="b"), make_target(sources="a")])
    assert first.sharding == one_device()
    np.testing.assert_array_equal(first, VALUES["b"])
    np.testing.assert_array_equal(second, VALUES["a"])


def test_assembles_several_sources():
    target = make_target(sources=("a", "b"), assemble=lambda arrays: np.concatenate(arrays).T, shape=(3, 4))
    (array,) = load_weights(MemoryCheckpoint(VALUES), [target])
    np.testing.assert_array_equal(array, np.concatenate([VALUES["a"], VALUES["b"]]).T)


def test_one_source_may_serve_two_targets():
    first, second = load_weights(MemoryCheckpoint({"a": VALUES["a"]}), [make_target("x"), make_target("y")])
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("source", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_casts_to_the_wanted_dtype(source, dtype):
    values = np.random.default_rng(0).normal(size=(2, 3)).astype(source)
    (array,) = load_weights(MemoryCheckpoint({"a": values}), [make_target(dtype=dtype)])
    assert array.dtype == dtype
    np.testing.assert_array_equal(np.asarray(array), values.astype(dtype))


def test_rounds_float32_to_bfloat16_as_ml_dtypes_does():
    special = np.array([0, -0.0, np.inf, -np.inf, np.nan, 3.4e38, -3.4e38, 1e-45, 1.00390625, 1.01171875], np.float32)
    all_nans = np.array([0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFF800001], np.uint32).view(np.float32)
    bits = np.random.default_rng(0).integers(0, 1 << 32, 100_000, np.uint32).view(np.float32)
    values = np.concatenate([special, all_nans, bits])
    (array,) = load_weights(MemoryCheckpoint({"a": values}), [make_target(shape=values.shape, dtype=jnp.bfloat16)])
    with np.errstate(invalid="ignore"):
        result, expected = np.asarray(array), values.astype(ml_dtypes.bfloat16)
    is_nan = np.isnan(values)
    np.testing.assert_array_equal(np.isnan(result.astype(np.float32)), is_nan)
    np.testing.assert_array_equal(result.view(np.uint16)[~is_nan], expected.view(np.uint16)[~is_nan])


def test_shards_over_devices():
    devices = jax.devices()
    mesh = Mesh(np.array(devices), ("model",))
    sharding = NamedSharding(mesh, PartitionSpec(None, "model"))
    values = np.arange(2 * 4 * len(devices), dtype=np.float32).reshape(2, -1)
    (array,) = load_weights(MemoryCheckpoint({"a": values}), [make_target(shape=values.shape, sharding=sharding)])
    assert array.sharding == sharding
    assert {shard.data.shape for shard in array.addressable_shards} == {(2, 4)}
    np.testing.assert_array_equal(array, values)


def test_the_arrays_do_not_depend_on_the_file(tmp_path):
    path = write_safetensors(tmp_path / "a.safetensors", {"a": np.ones((64, 64), np.float32)})
    (array,) = load_weights(SafetensorsFile(path), [make_target(shape=(64, 64))])
    data = bytearray(path.read_bytes())
    data[-64 * 64 * 4 :] = bytes(64 * 64 * 4)
    with path.open("r+b") as file:
        file.write(data)
    assert np.asarray(array).all()


def test_progress_sums_up_to_the_bytes_of_the_targets():
    steps: list[int] = []
    targets = [make_target(sources="a"), make_target(sources="b", dtype=jnp.bfloat16)]
    load_weights(MemoryCheckpoint(VALUES), targets, progress=steps.append)
    assert steps == [24, 12]
    assert [target.num_bytes for target in targets] == [24, 12]


def test_the_host_holds_a_few_tensors_at_a_time(monkeypatch):
    held: set[str] = set()
    peaks: list[int] = []

    def read(name):
        with checkpoint.lock:
            held.add(name)
            peaks.append(len(held))
        return np.zeros(2, np.float32)

    def load_one(checkpoint, target):
        try:
            return load_original(checkpoint, target)
        finally:
            with checkpoint.lock:
                held.discard(target.sources[0])

    checkpoint = MemoryCheckpoint({f"t{number}": np.zeros(2, np.float32) for number in range(50)})
    monkeypatch.setattr(checkpoint, "read", read)
    load_original = load._load
    monkeypatch.setattr(load, "_load", load_one)
    load_weights(checkpoint, [make_target(sources=(name,), shape=(2,)) for name in checkpoint.names()])
    assert max(peaks) <= 4


def test_missing_and_unexpected_tensors_are_listed_together():
    checkpoint = MemoryCheckpoint(VALUES | {"c": VALUES["a"]})
    targets = [make_target(sources=("a",)), make_target(sources=("nowhere",))]
    message = r"The tensors of memory do not fit the model\. 1 missing: nowhere; 2 unexpected: b, c\."
    with pytest.raises(CheckpointError, match=message):
        load_weights(checkpoint, targets)
    assert checkpoint.num_reads == 0


def test_long_lists_are_cut():
    checkpoint = MemoryCheckpoint({"a": VALUES["a"]} | {f"x{number:02}": VALUES["a"] for number in range(30)})
    with pytest.raises(CheckpointError, match=r"30 unexpected: x00, .*x09 and 20 more\."):
        load_weights(checkpoint, [make_target()])


def test_ignored_patterns_and_harmless_buffers_may_be_left_over():
    extra = ("lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq", "vision.x.weight")
    checkpoint = MemoryCheckpoint({"a": VALUES["a"]} | dict.fromkeys(extra, VALUES["a"]))
    assert len(load_weights(checkpoint, [make_target()], ignored=["lm_head.weight", "vision.*"])) == 1


def test_wrong_shapes_are_listed_before_anything_is_read():
    checkpoint = MemoryCheckpoint(VALUES)
    targets = [make_target(sources="a", shape=(3, 2)), make_target(sources="b", shape=(6,))]
    message = r"2 of a wrong shape: a is \(2, 3\), expected \(3, 2\), b is \(2, 3\), expected \(6,\)\."
    with pytest.raises(CheckpointError, match=message):
        load_weights(checkpoint, targets)
    assert checkpoint.num_reads == 0


def test_a_wrong_shape_after_assembling_names_the_sources():
    target = make_target(sources=("a", "b"), assemble=np.concatenate, shape=(4, 4))
    message = r"memory: w must have the shape \(4, 4\), but a \(2, 3\), b \(2, 3\) give \(4, 3\)\."
    with pytest.raises(CheckpointError, match=message):
        load_weights(MemoryCheckpoint(VALUES), [target])


def test_sources_that_do_not_fit_together_are_named():
    checkpoint = MemoryCheckpoint({"a": VALUES["a"], "b": np.zeros((2, 4), np.float32)})
    with pytest.raises(
        CheckpointError, match=r"memory: w \(4, 3\) cannot be made of a \(2, 3\), b \(2, 4\): all the input"
    ):
        load_weights(checkpoint, [make_target(sources=("a", "b"), assemble=np.concatenate, shape=(4, 3))])


def test_several_sources_need_an_assemble():
    with pytest.raises(AssertionError, match="w: several sources need an assemble"):
        make_target(sources=("a", "b"))


def test_dummy_matrices_are_small_centred_and_different():
    targets = [make_target(name, shape=(64, 128), dtype=jnp.bfloat16) for name in ("x", "y")]
    x, y = (np.asarray(array, np.float32) for array in dummy_weights(targets, seed=0))
    for values in (x, y):
        assert abs(values.mean()) < 0.001
        assert 0.019 < values.std() < 0.021
    assert abs(np.corrcoef(x.ravel(), y.ravel())[0, 1]) < 0.05
    assert np.unique(x).size > 100


def test_dummy_norms_are_one_and_biases_zero():
    names = ("layers.0.norm.weight", "layers.0.norm.bias", "layers.0.qkv.bias")
    arrays = dummy_weights([make_target(name, shape=(4,)) for name in names], seed=0)
    assert [array.tolist() for array in arrays] == [[1] * 4, [0] * 4, [0] * 4]


def test_dummy_weights_depend_on_seed_and_name_but_not_on_the_sharding():
    mesh = Mesh(np.array(jax.devices()), ("model",))
    sharding = NamedSharding(mesh, PartitionSpec("model", None))
    shape = (4 * len(jax.devices()), 3)
    (plain,), (sharded,) = (
        dummy_weights([make_target(shape=shape, sharding=placed)], seed=5) for placed in (one_device(), sharding)
    )
    assert sharded.sharding == sharding
    np.testing.assert_array_equal(plain, sharded)
    (other_seed,) = dummy_weights([make_target(shape=shape)], seed=6)
    assert not np.array_equal(plain, other_seed)


def test_one_program_is_compiled_per_distinct_shape(monkeypatch):
    compiled = []
    compile_fill = load._compile_fill

    def compile_and_note(*key):
        compiled.append(key)
        return compile_fill(*key)

    monkeypatch.setattr(load, "_compile_fill", compile_and_note)
    targets = [make_target(f"layers.{layer}.w", shape=(5, 7)) for layer in range(20)]
    dummy_weights([*targets, make_target("norm", shape=(9,))], seed=0)
    assert [shape for shape, _, _ in compiled] == [(5, 7), (9,)]
