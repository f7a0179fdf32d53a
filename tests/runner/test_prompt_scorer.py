from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.runner.packed_scores import PackedScores, unpack_scores
from jaxllm.runner.prompt_scorer import SCORED_ROWS, score_prompt
from jaxllm.steps import NO_TARGET

TOKENS, WIDTH, VOCAB, TOP = 3 * SCORED_ROWS, 4, 7, 2
RNG = np.random.default_rng(0)
HIDDEN = RNG.standard_normal((TOKENS, WIDTH), np.float32)
HEAD = RNG.standard_normal((WIDTH, VOCAB), np.float32)


def make_scores() -> PackedScores:
    return PackedScores(jnp.full((3, TOKENS), 77, jnp.int32), jnp.full((2, TOKENS, TOP), 77, jnp.int32))


def run(targets: np.ndarray, mode: Any = "raw_logprobs") -> PackedScores:
    def scored(hidden: jax.Array, targets: jax.Array) -> PackedScores:
        return score_prompt(lambda rows: rows @ HEAD, make_scores(), hidden, targets, logprobs_mode=mode)

    return jax.jit(scored)(HIDDEN, targets)


def make_targets(*places: int) -> np.ndarray:
    targets = np.full(TOKENS, NO_TARGET, np.int32)
    targets[list(places)] = [place % VOCAB for place in places]
    return targets


@pytest.mark.parametrize("mode", ["raw_logprobs", "raw_logits"])
def test_targets_get_their_place_in_the_distribution(mode: str) -> None:
    places = [0, 5, SCORED_ROWS - 1, SCORED_ROWS, 2 * SCORED_ROWS + 3]
    scores = unpack_scores(*run(make_targets(*places), mode))
    logits = HIDDEN @ HEAD
    shift = np.log(np.exp(logits).sum(axis=1)) if mode == "raw_logprobs" else np.zeros(TOKENS)
    for place in places:
        expected = logits[place, place % VOCAB]
        np.testing.assert_allclose(scores.logprob[place], expected - shift[place], atol=1e-5)
        assert scores.rank[place] == 1 + (logits[place] > expected).sum()
        best = np.argsort(-logits[place])[:TOP]
        assert scores.top_ids[place].tolist() == best.tolist()
        np.testing.assert_allclose(scores.top_logprobs[place], logits[place][best] - shift[place], atol=1e-5)


def test_nothing_is_computed_beyond_the_last_target() -> None:
    scores = run(make_targets(3, SCORED_ROWS + 1))
    assert (np.asarray(scores.tokens)[:, 2 * SCORED_ROWS :] == 77).all()
    assert (np.asarray(scores.top)[:, 2 * SCORED_ROWS :] == 77).all()
    assert (np.asarray(run(make_targets()).tokens) == 77).all()
