import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.runner.packed_scores import pack_scores, unpack_scores
from jaxllm.runner.sampler import TokenScores


def test_everything_comes_out_as_it_went_in() -> None:
    rng = np.random.default_rng(0)
    scores = TokenScores(
        logprob=jnp.asarray([-1.5, -jnp.inf, -0.0], jnp.float32),
        rank=jnp.asarray([1, 40, 3], jnp.int32),
        top_ids=jnp.asarray(rng.integers(0, 40, (3, 2)), jnp.int32),
        top_logprobs=jnp.asarray(rng.normal(size=(3, 2)), jnp.float32),
    )
    packed = jax.jit(pack_scores)(jnp.asarray([7, 8, 9], jnp.int32), scores)
    assert packed.tokens[0].tolist() == [7, 8, 9]
    for unpacked, given in zip(unpack_scores(packed), scores, strict=True):
        np.testing.assert_array_equal(unpacked, given)
        assert unpacked.dtype == given.dtype
