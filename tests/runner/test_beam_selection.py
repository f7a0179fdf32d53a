"""The choice of beams against one in plain Python, candidate by candidate."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.runner.beam_selection import BeamInputs, BeamOutputs, select_beams

VOCAB_SIZE = 40
NUM_CANDIDATES = 12
MAX_ENDS = 3


@dataclass(frozen=True, kw_only=True)
class Group:
    """One search: the scores of its rows, and what it asks for."""

    scores: tuple[float, ...]
    width: int
    temperature: float = 1.0
    end_ids: tuple[int, ...] = ()
    allowed: frozenset[int] | None = None


OTHER = Group(scores=(0.0,), width=0)
"""A row that is no beam."""


def make_inputs(groups: list[Group], vocab_size: int = VOCAB_SIZE) -> BeamInputs:
    rows = [(group, score) for group in groups for score in group.scores]
    places = np.cumsum([0, *(group.width for group in groups)])
    end_ids = np.full((len(rows), MAX_ENDS), -1, np.int32)
    num_bits = -(-vocab_size // 32) * 32
    bits = np.ones((len(rows), num_bits), np.uint8)
    for row, (group, _) in enumerate(rows):
        end_ids[row, : len(group.end_ids)] = group.end_ids
        if group.allowed is not None:
            bits[row] = [token in group.allowed for token in range(num_bits)]
    return BeamInputs(
        width=jnp.asarray([group.width for group, _ in rows], jnp.int32),
        place=jnp.asarray(
            [place for place, group in zip(places, groups, strict=False) for _ in group.scores], jnp.int32
        ),
        score=jnp.asarray([score for _, score in rows], jnp.float32),
        temperature=jnp.asarray([group.temperature for group, _ in rows], jnp.float32),
        end_ids=jnp.asarray(end_ids),
        bitmask=jnp.asarray(np.packbits(bits, axis=-1, bitorder="little").view(np.uint32)),
        any_bitmask=jnp.asarray(any(group.allowed is not None for group in groups)),
    )


@cache
def compiled_select(num_candidates: int) -> Any:
    return jax.jit(partial(select_beams, num_candidates=num_candidates))


def select(logits: Any, groups: list[Group], num_candidates: int = NUM_CANDIDATES) -> BeamOutputs:
    inputs = make_inputs(groups, logits.shape[1])
    outputs = compiled_select(num_candidates)(jnp.asarray(logits, jnp.float32), inputs)
    return jax.tree.map(np.asarray, outputs)


def propose(logits: Any, group: Group) -> list[tuple[int, float, int]]:
    """(token, log-probability, rank) of a row's candidates."""
    scaled = np.asarray(logits, np.float32) / np.float32(group.temperature)
    logprobs = scaled - np.log(np.exp(scaled - scaled.max()).sum()) - scaled.max()
    order = sorted(range(len(scaled)), key=lambda token: (-logits[token], token))
    ranked = [(token, float(logprobs[token]), rank) for rank, token in enumerate(order, start=1)]
    allowed = [entry for entry in ranked if group.allowed is None or entry[0] in group.allowed]
    return allowed[: 2 * group.width]


def expected(logits: Any, groups: list[Group]) -> list[list[tuple[int, int, float]]]:
    """(parent row, token, score) of the chosen beams of each group."""
    chosen, row = [], 0
    for group in groups:
        children = []
        for score in group.scores:
            for token, logprob, _ in propose(logits[row], group):
                if token not in group.end_ids:
                    children.append((row, token, score + logprob))
            row += 1
        chosen.append(sorted(children, key=lambda child: -child[2])[: group.width])
    return chosen


def check(logits: Any, groups: list[Group], **options: int) -> BeamOutputs:
    outputs = select(logits, groups, **options)
    place = 0
    for group, chosen in zip(groups, expected(logits, groups), strict=True):
        places = slice(place, place + len(chosen))
        assert outputs.parents[places].tolist() == [row for row, _, _ in chosen]
        assert outputs.token_ids[places].tolist() == [token for _, token, _ in chosen]
        np.testing.assert_allclose(outputs.scores[places], [score for *_, score in chosen], rtol=1e-5)
        assert (outputs.scores[place + len(chosen) : place + group.width] == -np.inf).all()
        place += group.width
    assert (outputs.scores[place:] == -np.inf).all()
    return outputs


def random_logits(num_rows: int, seed: int = 0, vocab_size: int = VOCAB_SIZE) -> Any:
    return np.random.default_rng(seed).normal(size=(num_rows, vocab_size)).astype(np.float32)


def test_a_prompt_makes_as_many_beams_as_its_width() -> None:
    check(random_logits(6), [Group(scores=(0.0,), width=5), *[OTHER] * 5])


def test_beams_compete_with_all_their_log_probability() -> None:
    outputs = check(random_logits(4), [Group(scores=(-1.0, -1.1, -2.0, -9.0), width=4)])
    assert set(outputs.parents.tolist()) < {0, 1, 2}


@pytest.mark.parametrize("seed", range(5))
def test_groups_of_different_widths_do_not_touch_each_other(seed: int) -> None:
    groups = [
        Group(scores=(-1.0, -1.5), width=3),
        OTHER,
        Group(scores=(0.0,), width=1),
        Group(scores=(-4.0, -4.0, -4.5, -5.0, -5.0, -7.0), width=6),
        *[OTHER] * 2,
    ]
    check(random_logits(12, seed), groups)


def test_equal_scores_go_by_row_then_by_token() -> None:
    logits = np.zeros((3, VOCAB_SIZE), np.float32)
    outputs = check(logits, [Group(scores=(-1.0, -1.0, -1.0), width=3)])
    assert outputs.parents.tolist() == [0, 0, 0]
    assert outputs.token_ids.tolist() == [0, 1, 2]


@pytest.mark.parametrize("seed", range(3))
def test_coarse_scores_full_of_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.integers(0, 4, (5, VOCAB_SIZE)).astype(np.float32)
    logits[np.arange(5), rng.integers(0, VOCAB_SIZE, 5)] = 256.0  # so that every log-probability is a whole number
    check(logits, [Group(scores=(-1.0, -1.0, -2.0, -2.0, -3.0), width=5)])


def test_tokens_that_end_a_beam_take_no_place() -> None:
    logits = random_logits(2)
    best = np.argsort(-logits, axis=-1)
    group = Group(scores=(-1.0, -1.2), width=2, end_ids=(int(best[0, 0]), int(best[1, 1])))
    outputs = check(logits, [group])
    assert outputs.candidates.ids[0, 0] in group.end_ids
    assert not set(outputs.token_ids.tolist()) & set(group.end_ids)


def test_places_stay_empty_when_all_proposals_end_a_beam() -> None:
    logits = random_logits(3)
    best = np.argsort(-logits[0])
    outputs = check(logits, [Group(scores=(-1.0,), width=1, end_ids=(int(best[0]), int(best[1]))), *[OTHER] * 2])
    assert outputs.scores.tolist() == [-np.inf] * 3


def test_allowed_tokens_keep_their_log_probability_and_rank() -> None:
    logits = random_logits(4)
    group = Group(scores=(0.0, -0.5), width=2, allowed=frozenset({3, 17, 21, 22, 39}))
    outputs = check(logits, [group, Group(scores=(-1.0, -1.0), width=2)])
    for row, entry in enumerate([group, group]):
        proposed = propose(logits[row], entry)
        assert outputs.candidates.ids[row, :4].tolist() == [token for token, _, _ in proposed]
        assert outputs.candidates.ranks[row, :4].tolist() == [rank for *_, rank in proposed]
        np.testing.assert_allclose(outputs.candidates.logprobs[row, :4], [p for _, p, _ in proposed], rtol=1e-5)
    assert outputs.candidates.logprobs[0, 5] == -np.inf  # there are five allowed tokens


def test_fewer_allowed_tokens_than_beams() -> None:
    check(random_logits(4), [Group(scores=(0.0,), width=4, allowed=frozenset({7, 8})), *[OTHER] * 3])


def test_temperature_divides_the_logits() -> None:
    groups = [Group(scores=(-2.0, -2.1), width=2, temperature=0.5), Group(scores=(0.0,), width=2)]
    check(random_logits(4), [*groups, OTHER])


def test_candidates_are_ranked_from_the_likeliest() -> None:
    logits = random_logits(2)
    outputs = select(logits, [Group(scores=(0.0,), width=2), OTHER])
    proposed = propose(logits[0], Group(scores=(), width=NUM_CANDIDATES // 2))
    assert outputs.candidates.ids[0].tolist() == [token for token, _, _ in proposed]
    assert outputs.candidates.ranks[0].tolist() == list(range(1, NUM_CANDIDATES + 1))
    np.testing.assert_allclose(outputs.candidates.logprobs[0], [p for _, p, _ in proposed], rtol=1e-5)


def test_a_vocabulary_smaller_than_twice_the_width() -> None:
    check(random_logits(5, vocab_size=6), [Group(scores=(-1.0, -2.0), width=5), *[OTHER] * 3], num_candidates=6)


def test_a_large_vocabulary() -> None:
    check(random_logits(4, vocab_size=5000), [Group(scores=(-1.0, -1.1, -1.2, -1.3), width=4)], num_candidates=20)


def test_half_precision_logits_are_scored_in_float32() -> None:
    logits = jnp.asarray(random_logits(2), jnp.bfloat16)
    outputs = compiled_select(4)(logits, make_inputs([Group(scores=(-1.0, -1.5), width=2)]))
    whole = select(np.asarray(logits, np.float32), [Group(scores=(-1.0, -1.5), width=2)], num_candidates=4)
    assert outputs.scores.tolist() == whole.scores.tolist()


def test_rows_of_nan_propose_nothing() -> None:
    logits = random_logits(4)
    logits[0] = np.nan
    outputs = select(logits, [Group(scores=(0.0,), width=2), Group(scores=(-1.0, -1.5), width=2), OTHER])
    assert outputs.scores[:2].tolist() == [-np.inf] * 2
    assert (outputs.scores[2:] > -np.inf).all()


def test_rows_that_are_no_beams_take_no_place() -> None:
    assert (select(random_logits(2), [OTHER, OTHER]).scores == -np.inf).all()
