"""Random draws: their distribution, and what a draw may depend on."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from jaxllm.runner.draw import SORTED_TOP_K
from tests.runner.sampler_reference import Params, probabilities, run_sample

DRAWS = 4096


def draw_many(logits, params: Params, *, counts=None, num_calls: int = 1) -> np.ndarray:
    """Draws with different seeds and positions."""
    drawn = []
    for call in range(num_calls):
        rows = [
            dataclasses.replace(params, seed=(index << 20) + 7, position=index % 5 + 10 * call)
            for index in range(DRAWS)
        ]
        drawn.append(run_sample(logits, rows, counts=counts).token_ids)
    return np.concatenate(drawn)


def assert_follows(drawn: np.ndarray, chances: np.ndarray) -> None:
    observed = np.bincount(drawn, minlength=chances.size)
    assert observed[chances == 0].sum() == 0
    expected = chances * drawn.size
    common = expected >= 8
    observed = np.append(observed[common], observed[~common].sum())
    expected = np.append(expected[common], expected[~common].sum())
    if expected[-1] < 8:  # too rare for a bin of its own
        observed, expected = observed[:-1], expected[:-1] * observed[:-1].sum() / expected[:-1].sum()
    if observed.size > 1:
        assert chisquare(observed, expected).pvalue > 1e-5


def some_logits(vocab_size: int = 60, scale: float = 2.0) -> np.ndarray:
    return np.random.default_rng(1).normal(0, scale, vocab_size).astype(np.float32)


PENALTY_COUNTS = np.stack([np.arange(60) % 7 // 2 * 2 + np.arange(60) % 2, np.zeros(60)]).astype(np.int16)

FILTERS = {
    "temperature": Params(temperature=0.8),
    "high temperature": Params(temperature=2.0),
    "top_k": Params(temperature=1.0, top_k=7),
    "top_p": Params(temperature=1.0, top_p=0.8),
    "small top_p": Params(temperature=1.5, top_p=0.2),
    "min_p": Params(temperature=1.2, min_p=0.1),
    "top_k and top_p": Params(temperature=1.3, top_k=12, top_p=0.7),
    "min_p, top_k and top_p": Params(temperature=1.5, min_p=0.02, top_k=20, top_p=0.9),
    "logit_bias": Params(temperature=1.0, edits={3: 3.0, 59: 5.0, 0: -4.0}),
    "ban": Params(temperature=1.0, edits={int(some_logits().argmax()): -np.inf, 5: -np.inf}),
    "allowed": Params(temperature=1.0, allowed=frozenset({0, 1, 31, 32, 33, 58, 59})),
    "presence": Params(temperature=1.0, presence=1.5),
    "negative presence": Params(temperature=1.0, presence=-1.0),
    "frequency": Params(temperature=1.0, frequency=0.7),
    "repetition": Params(temperature=1.0, repetition=1.8),
    "everything": Params(
        temperature=1.4,
        min_p=0.01,
        top_k=25,
        top_p=0.9,
        presence=0.3,
        frequency=0.2,
        repetition=1.2,
        edits={3: 2.0, 7: -np.inf},
        allowed=frozenset(range(0, 60, 2)) | {3, 7},
    ),
}


@pytest.mark.parametrize("name", FILTERS)
def test_draws_follow_the_filtered_distribution(name):
    params = FILTERS[name]
    drawn = draw_many(some_logits(), params, counts=PENALTY_COUNTS)
    assert_follows(drawn, probabilities(some_logits(), params, PENALTY_COUNTS[0]))


@pytest.mark.parametrize("vocab_size", [1, 31, 257, 700])
def test_draws_follow_the_distribution_whatever_the_vocabulary_size(vocab_size):
    logits = some_logits(vocab_size)
    params = Params(temperature=1.0, top_p=0.95, top_k=200)
    assert_follows(draw_many(logits, params), probabilities(logits, params))


def test_draws_follow_a_flat_distribution_over_several_rounds():
    logits = np.linspace(0, 0.5, 300).astype(np.float32)
    params = Params(temperature=1.0, top_p=0.1)
    assert_follows(draw_many(logits, params, num_calls=2), probabilities(logits, params))


@pytest.mark.parametrize("top_k", [SORTED_TOP_K - 1, SORTED_TOP_K, SORTED_TOP_K + 1, 150, 299])
def test_top_k_leaves_as_many_tokens_sorted_or_bisected(top_k):
    logits = np.random.default_rng(2).permutation(300).astype(np.float32) / 300
    params = Params(temperature=2.0, top_k=top_k)
    drawn = draw_many(logits, params, num_calls=2)
    assert set(drawn.tolist()) == set(np.argsort(logits)[-top_k:].tolist())


def test_bfloat16_logits_are_drawn_as_their_values():
    logits = jnp.asarray(some_logits(), jnp.bfloat16)
    params = Params(temperature=0.9, top_p=0.9)
    assert_follows(draw_many(logits, params), probabilities(np.asarray(logits, np.float64), params))


def test_large_vocabulary_draws_follow_the_distribution():
    rng = np.random.default_rng(3)
    logits = (-1.5 * np.log(rng.permutation(49152) + 1) + rng.normal(0, 0.3, 49152)).astype(np.float32)
    params = Params(temperature=0.8, top_k=50, top_p=0.95)
    rows = [dataclasses.replace(params, seed=seed) for seed in range(64)]
    drawn = np.concatenate(
        [run_sample(logits, [dataclasses.replace(row, position=call) for row in rows]).token_ids for call in range(16)]
    )
    assert_follows(drawn, probabilities_of_top(logits, params))


def probabilities_of_top(logits: np.ndarray, params: Params) -> np.ndarray:
    """`probabilities` on the top_k tokens only, since its reference is quadratic."""
    best = np.argsort(logits)[-params.top_k :]
    chances = np.zeros(logits.size)
    chances[best] = probabilities(logits[best], dataclasses.replace(params, top_k=0))
    return chances


def test_same_seed_and_position_draw_the_same_token_whatever_the_batch():
    logits = np.random.default_rng(4).normal(0, 2, (24, 300)).astype(np.float32)
    kinds = [
        Params(temperature=1.0),
        Params(temperature=0.8, top_p=0.7),
        Params(temperature=1.5, top_k=5),
        Params(temperature=1.5, top_k=100, top_p=0.5),
        Params(),
        Params(temperature=1.0, min_p=0.2, edits={4: 5.0}, repetition=1.5),
    ]
    rows = [dataclasses.replace(kinds[index % 6], seed=index // 2, position=index) for index in range(24)]
    together = run_sample(logits, rows).token_ids
    alone = [run_sample(logits[[index]], [rows[index]]).token_ids[0] for index in range(24)]
    reversed_batch = run_sample(logits[::-1].copy(), rows[::-1]).token_ids[::-1]
    assert together.tolist() == alone == reversed_batch.tolist()


def test_seed_halves_and_position_each_change_the_draws():
    logits = np.zeros(60, np.float32)
    base = [Params(temperature=1.0, seed=index, position=3) for index in range(DRAWS)]
    other_position = [dataclasses.replace(row, position=4) for row in base]
    other_high_half = [dataclasses.replace(row, seed=row.seed + (1 << 32)) for row in base]
    drawn = [run_sample(logits, rows).token_ids for rows in (base, other_position, other_high_half)]
    same = [(drawn[0] == drawn[1]).sum(), (drawn[0] == drawn[2]).sum(), (drawn[1] == drawn[2]).sum()]
    assert max(same) < 2 * DRAWS / 60


def test_successive_positions_draw_independently():
    logits = np.zeros(8, np.float32)
    rows = [Params(temperature=1.0, seed=1, position=position) for position in range(DRAWS)]
    drawn = np.asarray(run_sample(logits, rows).token_ids)
    pairs = drawn[:-1] * 8 + drawn[1:]
    assert_follows(pairs[::2], np.full(64, 1 / 64))


@pytest.mark.parametrize(
    "params",
    [
        Params(temperature=1.0, top_p=1e-9),
        Params(temperature=2.0, top_p=1e-38),
        Params(temperature=1.0, top_k=1),
        Params(temperature=1.0, top_k=1, top_p=0.5, min_p=0.5),
        Params(temperature=2.0, min_p=1.0),
        Params(temperature=0.01),
    ],
)
def test_filters_that_leave_one_token_draw_the_likeliest(params):
    logits = some_logits()
    assert set(draw_many(logits, params).tolist()) == {int(logits.argmax())}


def test_equal_logits_at_the_boundary_all_stay():
    logits = np.array([1.0, 3.0, 3.0, 3.0, 2.0, -np.inf], np.float32)
    for params in (
        Params(temperature=1.0, top_k=1),
        Params(temperature=1.0, top_k=2),
        Params(temperature=1.0, top_p=0.01),
        Params(temperature=1.0, min_p=1.0),
    ):
        assert_follows(draw_many(logits, params), np.array([0, 1, 1, 1, 0, 0]) / 3)


def test_top_k_above_the_vocabulary_is_off():
    logits = some_logits()
    params = Params(temperature=1.0, top_k=1000)
    assert_follows(draw_many(logits, params), probabilities(logits, Params(temperature=1.0)))


def test_top_k_above_the_number_of_possible_tokens_draws_only_possible_ones():
    logits = np.full(300, -np.inf, np.float32)
    logits[[5, 200, 299]] = [0.0, 1.0, 2.0]
    for top_k in (10, 100):
        params = Params(temperature=1.0, top_k=top_k)
        assert_follows(draw_many(logits, params), probabilities(logits, params))


@pytest.mark.parametrize("scale", [1e30, 3e38])
def test_huge_logits_are_drawn_without_overflow(scale):
    logits = np.array([-1.0, 1.0, 0.5, 1.0], np.float32) * np.float32(scale)
    for params in (Params(temperature=0.01), Params(temperature=2.0, top_p=0.9, top_k=3)):
        assert_follows(draw_many(logits, params), np.array([0, 0.5, 0, 0.5]))


SUPPORT_ROWS = 512


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    values=st.lists(st.integers(-12, 12), min_size=70, max_size=70),
    temperature=st.sampled_from([0.3, 0.7, 1.0, 1.7]),
    top_k=st.integers(0, 80),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 0.999)),
    min_p=st.one_of(st.just(0.0), st.floats(0.001, 1.0)),
    banned=st.sets(st.integers(0, 69), max_size=8),
)
def test_exactly_the_tokens_of_a_sorted_reference_can_be_drawn(values, temperature, top_k, top_p, min_p, banned):
    logits = np.array(values, np.float32) / 4
    params = Params(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        edits=dict.fromkeys(banned, -np.inf),
    )
    chances = probabilities(logits, params)
    assume(not is_near_a_boundary(logits, params))
    rows = [dataclasses.replace(params, seed=seed) for seed in range(SUPPORT_ROWS)]
    outputs = run_sample(logits, rows, any_logprobs=True, max_logprobs=70, logprobs_mode="processed_logprobs")
    processed = np.zeros(70)
    processed[outputs.top_ids[0]] = np.exp(outputs.top_logprobs[0])
    np.testing.assert_array_equal(processed > 0, chances > 0)
    np.testing.assert_allclose(processed, chances, rtol=1e-4)
    drawn = set(outputs.token_ids.tolist())
    assert drawn <= set(np.flatnonzero(chances).tolist())
    assert drawn >= set(np.flatnonzero(chances > 0.06).tolist())


def is_near_a_boundary(logits: np.ndarray, params: Params) -> bool:
    """Whether float32 and float64 may disagree on which tokens are left."""
    without_top_p = probabilities(logits, dataclasses.replace(params, top_p=1.0))
    masses = np.array([without_top_p[logits > value].sum() for value in logits])
    unfiltered = probabilities(logits, dataclasses.replace(params, top_p=1.0, min_p=0.0, top_k=0))
    relative = unfiltered / unfiltered.max()
    near_top_p = params.top_p < 1 and np.abs(masses - params.top_p).min() < 1e-4
    near_min_p = params.min_p < 1 and np.abs(relative / max(params.min_p, 1e-9) - 1).min() < 1e-4
    return bool(near_top_p or near_min_p)
