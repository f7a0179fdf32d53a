"""What a beam search must find, computed without an engine, and how the FakeRunner chooses beams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxllm.steps import BeamSelection, ScheduledRequest, SlotStart

VOCAB_SIZE = 50

ScoredTokens = tuple[list[int], float]
"""What a beam has generated, and its log-probability."""


def mix(state: int, token_id: int) -> int:
    """The state of a sequence after one more token; it depends on all tokens so far, as KV entries do."""
    return ((state ^ (token_id + 1)) * 0x9E3779B97F4A7C15 + 0x1234567) % (1 << 61)


def state_of(token_ids: Sequence[int], state: int = 0) -> int:
    for token_id in token_ids:
        state = mix(state, token_id)
    return state


def ranked_tokens(state: int) -> list[tuple[int, float]]:
    """Every token with its log-probability, likeliest first. They are so coarse that ties are common, and exact."""
    logprobs = [(token_id, -((mix(state, 100 + token_id) >> 24) % 40) / 8) for token_id in range(VOCAB_SIZE)]
    return sorted(logprobs, key=lambda entry: -entry[1])


def expected_beams(
    prompt: Sequence[int],
    *,
    width: int,
    max_tokens: int,
    end_ids: Sequence[int] = (),
    allowed: Sequence[int] | None = None,
    length_penalty: float = 1.0,
) -> list[ScoredTokens]:
    """The results of a search as its definition says, beam by beam."""
    live: list[ScoredTokens] = [([], 0.0)]
    ended: list[ScoredTokens] = []
    for _ in range(max_tokens):
        children: list[ScoredTokens] = []
        for tokens, score in live:
            candidates = [entry for entry in ranked_tokens(state_of([*prompt, *tokens])) if is_in(entry[0], allowed)]
            for token_id, logprob in candidates[: 2 * width]:
                (ended if token_id in end_ids else children).append(([*tokens, token_id], score + logprob))
        live = sorted(children, key=lambda beam: -beam[1])[:width]
    results = sorted([*ended, *live], key=lambda beam: -beam[1] / max(len(beam[0]), 1) ** length_penalty)
    return results[:width]


def is_in(token_id: int, allowed: Sequence[int] | None) -> bool:
    return allowed is None or token_id in allowed


@dataclass
class FakeSearch:
    """What the device is told of a search step by step, for checking it against what it chose before."""

    start: SlotStart
    rank: Callable[[Any], list[tuple[int, float]]] = ranked_tokens
    """Every token with its log-probability in some state of a row, likeliest first."""
    beams: list[ScoredTokens] = field(default_factory=lambda: [([], 0.0)])

    def check_rows(self, rows: Sequence[ScheduledRequest]) -> None:
        assert len(rows) == len(self.beams), "all live beams are in a step, or none"
        assert [row.beam_score for row in rows] == [score for _, score in self.beams]

    def select(self, states: Sequence[Any]) -> BeamSelection:
        """Chooses from the states that the rows have reached."""
        assert self.start.beam is not None
        width = self.start.beam.width
        allowed = self.start.sampling_params.allowed_token_ids
        proposed = []
        for state in states:
            ranked = [(token_id, logprob, rank) for rank, (token_id, logprob) in enumerate(self.rank(state), 1)]
            proposed.append([entry for entry in ranked if is_in(entry[0], allowed)][: 2 * width])
        children = [
            (self.beams[row][1] + logprob, row, token_id)
            for row, candidates in enumerate(proposed)
            for token_id, logprob, _ in candidates
            if token_id not in self.start.stop_token_ids
        ]
        children = sorted(children, key=lambda child: -child[0])[:width]
        self.beams = [([*self.beams[row][0], token_id], score) for score, row, token_id in children]
        table = np.full((len(states), 2 * width, 3), (0, -np.inf, 0))
        for row, candidates in enumerate(proposed):
            table[row, : len(candidates)] = candidates
        return BeamSelection(
            parents=np.array([row for _, row, _ in children], np.int32),
            token_ids=np.array([token_id for _, _, token_id in children], np.int32),
            scores=np.array([score for score, _, _ in children], np.float32),
            candidate_ids=table[:, :, 0].astype(np.int32),
            candidate_logprobs=table[:, :, 1].astype(np.float32),
            candidate_ranks=table[:, :, 2].astype(np.int32),
        )


def make_selection(
    *chosen: tuple[int, int, float], candidates: Sequence[Sequence[tuple[int, float]]] | None = None
) -> BeamSelection:
    """(parent, token, score) of each chosen beam, and (token, log-probability) of each row's candidates."""
    parents, token_ids, scores = zip(*chosen, strict=True) if chosen else ((), (), ())
    proposed = np.array(candidates or [[(1, -1.0), (2, -2.0)]] * (max(parents, default=0) + 1), np.float32)
    return BeamSelection(
        parents=np.array(parents, np.int32),
        token_ids=np.array(token_ids, np.int32),
        scores=np.array(scores, np.float32),
        candidate_ids=proposed[:, :, 0].astype(np.int32),
        candidate_logprobs=proposed[:, :, 1],
        candidate_ranks=np.broadcast_to(np.arange(1, proposed.shape[1] + 1), proposed.shape[:2]),
    )
