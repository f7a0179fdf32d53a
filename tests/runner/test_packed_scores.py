import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.runner.packed_scores import PackedScores, unpack_scores
from jaxllm.runner.sampler import TokenScores


def test_the_first_rows_come_out_as_they_went_in_and_the_others_stay() -> None:
    rng = np.random.default_rng(0)
    scores = TokenScores(
        logprob=jnp.asarray([-1.5, -jnp.inf, -0.0], jnp.float32),
        rank=jnp.asarray([1, 40, 3], jnp.int32),
        top_ids=jnp.asarray(rng.integers(0, 40, (3, 2)), jnp.int32),
        top_logprobs=jnp.asarray(rng.normal(size=(3, 2)), jnp.float32),
    )
    before = PackedScores(jnp.full((3, 5), 6, jnp.int32), jnp.full((2, 5, 2), 7, jnp.int32))
    packed = jax.jit(PackedScores.replace_rows)(before, jnp.asarray([7, 8, 9], jnp.int32), scores)
    assert packed.tokens[0].tolist() == [7, 8, 9, 6, 6]
    assert packed.top[0, 3:].tolist() == [[7, 7], [7, 7]]
    for unpacked, given in zip(unpack_scores(*packed), scores, strict=True):
        np.testing.assert_array_equal(unpacked[:3], given)
        assert unpacked.dtype == given.dtype
