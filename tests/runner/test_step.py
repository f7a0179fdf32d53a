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
from jaxllm.runner.sampling_rows import rows_shape
from jaxllm.runner.sharding import make_mesh, replicated
from jaxllm.runner.step import DeviceState, StepProgram
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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("port", PORTS)
def test_keeps_the_dtypes_of_cache_and_state(port: str, dtype: str) -> None:
    config, mesh = make_config(**PORTS[port]), make_mesh("cpu", 2)
    graphdef, infos, treedef = describe(build_model(config, mesh))
    layout = Layout(Bucket(num_tokens=32, num_rows=ROWS, has_chunks=True), pages_per_request=4)
    program = StepProgram(graphdef, treedef, layout, replicated(mesh))
    weights = tuple(jax.ShapeDtypeStruct(info.shape, jnp.dtype(dtype)) for info in infos)
    pages = jax.ShapeDtypeStruct((PAGES, 16, config.num_kv_heads, config.head_dim), jnp.dtype(dtype))
    state = DeviceState(
        tuple(KVCache(pages, pages) for _ in range(config.num_layers)),
        last_tokens=jax.ShapeDtypeStruct((SLOTS,), np.int32),
        tokens=jax.ShapeDtypeStruct((3, SLOTS), np.int32),
        logits=jax.ShapeDtypeStruct((SLOTS, VOCAB), jnp.dtype(dtype)),
        rows=jax.ShapeDtypeStruct(*rows_shape(SLOTS)),
        hidden=jax.ShapeDtypeStruct((64, config.hidden_size), jnp.dtype(dtype)),
        targets=jax.ShapeDtypeStruct((64,), np.int32),
    )
    buffer = jax.ShapeDtypeStruct((layout.size,), np.int32)
    new_state = jax.eval_shape(program, weights, state, buffer)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(new_state)] == [
        (x.shape, x.dtype) for x in jax.tree.leaves(state)
    ]
