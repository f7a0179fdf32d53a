"""Every port in a step's program, traced only: under the strict promotion of the tests, that finds stray dtypes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.models.inputs import KVCache
from jaxllm.models.parameters import describe
from jaxllm.models.registry import build_model
from jaxllm.runner.layout import Bucket, Layout
from jaxllm.runner.packed_scores import PackedScores
from jaxllm.runner.sharding import make_mesh, replicated
from jaxllm.runner.step import Constraints, DeviceState, StepProgram
from tests.models.helpers import make_config

OPT = {"architectures": ["OPTForCausalLM"], "ffn_dim": 24, "activation_function": "relu"}
PORTS: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"]},
    "gemma3": {
        "architectures": ["Gemma3ForCausalLM"],
        "sliding_window": 8,
        "sliding_window_pattern": 2,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    "opt": {**OPT, "num_key_value_heads": 4},
    "opt_350m": {**OPT, "word_embed_proj_dim": 8, "do_layer_norm_before": False},
}
ROWS, SLOTS, VOCAB, PAGES = 2, 3, 32, 5


def make_scores(rows: int) -> PackedScores:
    return PackedScores(jax.ShapeDtypeStruct((3, rows), np.int32), jax.ShapeDtypeStruct((2, rows, 3), np.int32))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("port", PORTS)
def test_keeps_the_dtypes_of_cache_and_state(port: str, dtype: str) -> None:
    config, mesh = make_config(**PORTS[port]), make_mesh("cpu", 2)
    graphdef, infos, treedef = describe(build_model(config, mesh))
    layout = Layout(Bucket(num_tokens=32, num_rows=ROWS, has_chunks=True), pages_per_request=4)
    program = StepProgram(graphdef, treedef, layout, 3, "raw_logprobs", replicated(mesh))
    weights = tuple(jax.ShapeDtypeStruct(info.shape, jnp.dtype(dtype)) for info in infos)
    pages = jax.ShapeDtypeStruct((PAGES, 16, config.num_kv_heads, config.head_dim), jnp.dtype(dtype))
    state = DeviceState(
        tuple(KVCache(pages, pages) for _ in range(config.num_layers)),
        jax.ShapeDtypeStruct((SLOTS,), np.int32),
        jax.ShapeDtypeStruct((SLOTS, VOCAB), np.int16),
        jax.ShapeDtypeStruct((SLOTS, VOCAB), jnp.dtype(dtype)),
        make_scores(SLOTS),
        make_scores(64),
    )
    constraints = Constraints(
        jax.ShapeDtypeStruct((ROWS, 4), np.int32),
        jax.ShapeDtypeStruct((ROWS, 4), np.float32),
        jax.ShapeDtypeStruct((ROWS, 1), np.uint32),
    )
    buffer = jax.ShapeDtypeStruct((layout.size,), np.int32)
    new_state = jax.eval_shape(program, weights, state, buffer, constraints)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(new_state)] == [
        (x.shape, x.dtype) for x in jax.tree.leaves(state)
    ]
