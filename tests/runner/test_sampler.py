"""What the sampler does besides drawing at random: greedy rows, changes to the logits, logprobs, flags."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.runner.sampler import score
from tests.runner.sampler_reference import (
    Params,
    adjusted_logits,
    compiled_sample,
    make_inputs,
    probabilities,
    run_sample,
    softmax,
)

VOCAB_SIZE = 75
TOP = 5
GREEDY = Params()


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 2, (4, VOCAB_SIZE)).astype(np.float32)


@pytest.fixture(scope="module")
def counts() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 7, (5, VOCAB_SIZE)).astype(np.int16)


def sample_rows(logits, rows, *, counts=None, any_logprobs=False, logprobs_mode="raw_logprobs"):
    counts = np.zeros((5, VOCAB_SIZE), np.int16) if counts is None else counts
    return run_sample(
        logits, rows, counts=counts, any_logprobs=any_logprobs, max_logprobs=TOP, logprobs_mode=logprobs_mode
    )


def test_greedy_rows_take_the_likeliest_token(logits):
    assert sample_rows(logits, [GREEDY] * 4).token_ids.tolist() == logits.argmax(axis=1).tolist()


def test_greedy_ties_go_to_the_lowest_id(logits):
    tied = logits.copy()
    tied[:, [70, 33, 40]] = 50.0
    assert sample_rows(tied, [GREEDY] * 4).token_ids.tolist() == [33] * 4
    mixed = [GREEDY, GREEDY, GREEDY, Params(temperature=1.0, top_k=5)]
    assert sample_rows(tied, mixed).token_ids[:3].tolist() == [33] * 3


def test_greedy_rows_ignore_filters_and_random_neighbours(logits):
    greedy = Params(top_k=3, top_p=0.1, min_p=0.9, seed=3)
    rows = [greedy, Params(temperature=5.0), Params(temperature=1e-6, top_p=0.5), Params(temperature=2.0)]
    token_ids = sample_rows(logits, rows).token_ids
    assert token_ids[[0, 2]].tolist() == logits[[0, 2]].argmax(axis=1).tolist()


def test_temperature_just_above_the_greedy_bound_draws_without_overflow(logits):
    rows = [Params(temperature=2e-5, top_p=0.9)] * 4
    assert sample_rows(logits * 1000, rows).token_ids.tolist() == logits.argmax(axis=1).tolist()


@pytest.mark.parametrize(
    "params",
    [
        Params(presence=2.0),
        Params(frequency=1.0),
        Params(repetition=3.0),
        Params(repetition=0.5),
        Params(edits={0: 4.0, 74: -6.0, 13: 3.0}),
        Params(allowed=frozenset({0, 31, 32, 63, 64, 74})),
        Params(
            presence=0.7,
            frequency=-0.4,
            repetition=1.3,
            edits={32: -np.inf, 5: 3.0, 6: -2.0},
            allowed=frozenset(range(60)),
        ),
    ],
)
def test_logits_change_as_in_the_reference(logits, counts, params):
    rows = [dataclasses.replace(params, slot=slot) for slot in (2, 0, 3, 1)]
    outputs = sample_rows(logits, rows, counts=counts, any_logprobs=True, logprobs_mode="processed_logits")
    for index, row in enumerate(rows):
        expected = adjusted_logits(logits[index], row, counts[row.slot])
        assert outputs.token_ids[index] == expected.argmax()
        np.testing.assert_allclose(outputs.top_logprobs[index], np.sort(expected)[: -TOP - 1 : -1], rtol=1e-5)


def test_penalties_do_not_touch_rows_without_them(logits, counts):
    rows = [dataclasses.replace(GREEDY, slot=1), Params(repetition=2.0, slot=2), GREEDY, GREEDY]
    outputs = sample_rows(logits, rows, counts=counts, any_logprobs=True, logprobs_mode="processed_logits")
    np.testing.assert_array_equal(outputs.top_logprobs[[0, 2, 3], 0], logits[[0, 2, 3]].max(axis=1))


def test_edits_outside_the_vocabulary_are_dropped(logits):
    rows = [Params(edits={-1: 100.0, -75: 100.0, 75: 100.0, 4000: 100.0})] * 4
    assert sample_rows(logits, rows).token_ids.tolist() == logits.argmax(axis=1).tolist()


def test_edits_of_the_same_token_add_up(logits):
    inputs = make_inputs([Params(edits={7: 60.0, 8: 60.0, 9: 100.0})] * 4, VOCAB_SIZE)
    inputs = inputs._replace(edit_ids=jnp.where(inputs.edit_ids == 8, 7, inputs.edit_ids))
    outputs = compiled_sample(TOP, "raw_logprobs")(logits, jnp.zeros((5, VOCAB_SIZE), jnp.int16), inputs)
    assert outputs.token_ids.tolist() == [7] * 4


def test_row_without_any_possible_token_is_drawn_as_if_nothing_was_banned(logits):
    banned = Params(allowed=frozenset({3}), edits={3: -np.inf})
    rows = [banned, dataclasses.replace(banned, temperature=1.0, top_k=1), Params(edits={3: 99.0}), GREEDY]
    expected = logits.argmax(axis=1)
    expected[2] = 3
    assert sample_rows(logits, rows).token_ids.tolist() == expected.tolist()


def test_row_of_nan_yields_token_0_and_leaves_the_others_alone(logits):
    broken = logits.copy()
    broken[:2] = np.nan
    rows = [GREEDY, Params(temperature=1.0, top_k=5, top_p=0.9), Params(temperature=1.0, top_p=1e-9), GREEDY]
    expected = [0, 0, *logits[2:].argmax(axis=1)]
    assert sample_rows(broken, rows).token_ids.tolist() == expected


@pytest.mark.parametrize("flag", ["any_random", "any_penalties", "any_edits", "any_bitmask"])
def test_inputs_of_a_cleared_flag_are_ignored(logits, counts, flag):
    """Each kind of input alone would change every row's token."""
    likeliest = frozenset(logits.argmax(axis=1).tolist())
    params = {
        "any_random": Params(temperature=1e6),
        "any_penalties": Params(presence=1e6, frequency=1e6, repetition=1e6),
        "any_edits": Params(edits=dict.fromkeys(likeliest, -np.inf)),
        "any_bitmask": Params(allowed=frozenset(range(VOCAB_SIZE)) - likeliest),
    }[flag]
    inputs = make_inputs([params] * 4, VOCAB_SIZE)._replace(**{flag: jnp.array(False)})
    outputs = compiled_sample(TOP, "raw_logprobs")(logits, counts, inputs)
    assert outputs.token_ids.tolist() == logits.argmax(axis=1).tolist()


def test_scores_are_zeros_when_no_row_wants_logprobs(logits):
    outputs = sample_rows(logits, [GREEDY] * 4)
    assert not any(np.any(scores) for scores in outputs[1:])
    assert outputs.top_ids.shape == outputs.top_logprobs.shape == (4, TOP)


ROWS_FOR_LOGPROBS = [
    Params(temperature=0.7, top_k=8, top_p=0.9, seed=5, slot=0, repetition=1.4),
    Params(temperature=1.5, top_p=0.6, seed=6, slot=1, edits={3: 2.5}),
    Params(temperature=1.2, min_p=0.1, seed=7, slot=2, presence=0.5),
    Params(frequency=0.8, slot=3),
]


def expected_scores(logits, row: Params, counts, mode: str):
    if mode.startswith("raw"):
        values = np.asarray(logits, np.float64)
    elif row.temperature == 0:
        values = adjusted_logits(logits, row, counts[row.slot])
    else:
        kept = probabilities(logits, row, counts[row.slot]) > 0
        values = np.where(kept, adjusted_logits(logits, row, counts[row.slot]) / row.temperature, -np.inf)
    if mode.endswith("logits"):
        return values
    with np.errstate(divide="ignore"):
        return np.log(softmax(values))


@pytest.mark.parametrize("mode", ["raw_logprobs", "processed_logprobs", "raw_logits", "processed_logits"])
def test_logprobs_and_ranks_match_the_reference(logits, counts, mode):
    outputs = sample_rows(logits, ROWS_FOR_LOGPROBS, counts=counts, any_logprobs=True, logprobs_mode=mode)
    for index, row in enumerate(ROWS_FOR_LOGPROBS):
        expected = expected_scores(logits[index], row, counts, mode)
        token = outputs.token_ids[index]
        best = np.argsort(-expected, kind="stable")[:TOP]
        assert outputs.rank[index] == 1 + (expected > expected[token]).sum()
        assert outputs.top_ids[index].tolist() == best.tolist()
        np.testing.assert_allclose(outputs.logprob[index], expected[token], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(outputs.top_logprobs[index], expected[best], rtol=1e-4, atol=1e-5)


def test_logprobs_do_not_change_the_drawn_token(logits):
    rows = [Params(temperature=1.0, top_p=0.9, seed=seed) for seed in range(4)]
    plain = sample_rows(logits, rows).token_ids
    assert sample_rows(logits, rows, any_logprobs=True).token_ids.tolist() == plain.tolist()


def test_score_gives_prompt_logprobs_of_bfloat16_logits():
    logits = jnp.asarray(np.random.default_rng(5).normal(0, 3, (6, 500)), jnp.bfloat16)
    targets = np.array([0, 499, 33, 250, 128, 7])
    scores = jax.jit(score, static_argnames="top")(logits, jnp.asarray(targets), top=3)
    for index, target in enumerate(targets):
        values = np.asarray(logits[index], np.float64)
        expected = np.log(softmax(values))
        best = np.argsort(-values, kind="stable")[:3]
        np.testing.assert_allclose(scores.logprob[index], expected[target], rtol=1e-5)
        assert scores.rank[index] == 1 + (values > values[target]).sum()
        assert scores.top_ids[index].tolist() == best.tolist()
        np.testing.assert_allclose(scores.top_logprobs[index], expected[best], rtol=1e-5)
