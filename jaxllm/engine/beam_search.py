"""One beam search on the host: the beams that live, and those that have ended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxllm.errors import ValidationError
from jaxllm.steps import MAX_BEAM_END_IDS, BeamSelection, BeamSettings, Runner


class BeamCandidates(NamedTuple):
    """The tokens that a beam considered at one position, likeliest first."""

    token_ids: np.ndarray
    """int32 [candidates]"""
    logprobs: np.ndarray
    """float32 [candidates]; -inf where there is no such token."""
    ranks: np.ndarray
    """int32 [candidates], 1-based rank in the whole vocabulary."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedBeam:
    """One result of a beam search."""

    token_ids: tuple[int, ...]
    """What was generated, the token that ended the beam included."""
    cum_logprob: float
    """Log-probability of all of them together."""
    candidates: tuple[BeamCandidates, ...]
    """One entry per token. Entries of beams with a common beginning may be the same objects."""
    is_stopped: bool
    """Whether an EOS token ended it, not the length limit."""


class _Node(NamedTuple):
    """The last token of a beam and, through its parent, those before: beams share their common beginning."""

    parent: _Node | None
    token_id: int
    candidates: BeamCandidates


class Beam(NamedTuple):
    """A beam that lives."""

    node: _Node | None
    """None before the first token."""
    score: float
    """Log-probability of what it has generated."""
    page_ids: np.ndarray
    """int32 [pages], its whole page table; never changed in place, as steps in flight and other beams hold it."""

    @property
    def last_token_id(self) -> int:
        assert self.node is not None, "the beam has generated nothing yet"
        return self.node.token_id


class _EndedBeam(NamedTuple):
    node: _Node | None
    score: float
    num_tokens: int
    is_stopped: bool


class BeamSearch:
    """The search of one request.

    A step proposes, for each live beam, its 2 * width likeliest tokens. Those that end a text end a beam each. Of the
    others the best `width` live on, by the log-probability of all they have generated. The search goes on until the
    length limit, or until no beam lives; it never stops because ended beams are good enough. Since nothing is drawn at
    random, it gives the same beams when it is started again.
    """

    def __init__(self, settings: BeamSettings, end_token_ids: frozenset[int]) -> None:
        self.settings = settings
        self._end_token_ids = np.array(sorted(end_token_ids), np.int32)
        self.beams: list[Beam] = []
        """Those that live, best first; none before the step that ends the prompt was read."""
        self.num_generated = 0
        """Tokens that each live beam has generated."""
        self._ended: list[_EndedBeam] = []

    def start(self, page_ids: np.ndarray) -> None:
        """Begins with one empty beam, whose pages hold the prompt."""
        self.beams = [Beam(None, 0.0, page_ids)]

    def reset(self) -> None:
        """Forgets everything, for a request that lost its pages."""
        self.beams, self._ended, self.num_generated = [], [], 0

    def advance(self, selection: BeamSelection) -> None:
        """Replaces the live beams by those that the step chose; each begins with its parent's pages."""
        rows = zip(selection.candidate_ids, selection.candidate_logprobs, selection.candidate_ranks, strict=True)
        candidates = [BeamCandidates(*row) for row in rows]
        parents = self.beams
        self.num_generated += 1
        self._end_beams(parents, candidates)
        chosen = (selection.parents.tolist(), selection.token_ids.tolist(), selection.scores.tolist())
        self.beams = [
            Beam(_Node(parents[row].node, token_id, candidates[row]), score, parents[row].page_ids)
            for row, token_id, score in zip(*chosen, strict=True)
        ]
        if not self.beams and not self._ended:
            # Logits of NaN propose nothing. Then the search ends with what it has.
            self._ended = [_EndedBeam(beam.node, beam.score, self.num_generated - 1, False) for beam in parents]

    def results(self) -> tuple[FinishedBeam, ...]:
        """The best `width` of all beams, best first."""
        live = [_EndedBeam(beam.node, beam.score, self.num_generated, False) for beam in self.beams]
        return tuple(_finish(beam) for beam in self._best([*self._ended, *live]))

    def _end_beams(self, parents: list[Beam], candidates: list[BeamCandidates]) -> None:
        if not self._end_token_ids.size:
            return
        proposed_ids = np.array([proposed.token_ids for proposed in candidates])
        is_end = (proposed_ids[:, :, None] == self._end_token_ids).any(axis=-1)
        for row in np.flatnonzero(is_end.any(axis=-1)).tolist():
            beam, proposed = parents[row], candidates[row]
            for index in np.flatnonzero(is_end[row] & (proposed.logprobs > -np.inf)).tolist():
                node = _Node(beam.node, int(proposed.token_ids[index]), proposed)
                score = beam.score + float(proposed.logprobs[index])
                self._ended.append(_EndedBeam(node, score, self.num_generated, True))
        self._ended = self._best(self._ended)  # more will never be asked for

    def _best(self, beams: list[_EndedBeam]) -> list[_EndedBeam]:
        """At most `width`, best first, equals in the order in which they ended."""
        penalty = self.settings.length_penalty
        beams = sorted(beams, key=lambda beam: beam.score / max(beam.num_tokens, 1) ** penalty, reverse=True)
        return beams[: self.settings.width]


def check_search(
    settings: BeamSettings, *, num_prompt_tokens: int, max_tokens: int, num_end_ids: int, runner: Runner
) -> None:
    """Raises ValidationError for a search that could never run: all its beams need rows and pages at once."""
    width = settings.width
    for limit in ("max_num_seqs", "max_num_batched_tokens"):
        if width > getattr(runner, limit):
            raise ValidationError(
                f"beam_width must be at most {limit} ({getattr(runner, limit)}), as all beams of a prompt share a "
                f"step, got {width}",
                parameter="beam_width",
            )
    if num_end_ids > MAX_BEAM_END_IDS:
        raise ValidationError(
            f"a beam search heeds at most {MAX_BEAM_END_IDS} EOS tokens, and the model has {num_end_ids}: "
            "ignore_eos must be True",
            parameter="ignore_eos",
        )
    num_tokens = min(num_prompt_tokens + max_tokens, runner.max_model_len)
    num_needed = most_pages(num_prompt_tokens, num_tokens, width, runner.page_size)
    if num_needed > runner.num_pages - 1:
        raise ValidationError(
            f"{width} beams of up to {num_tokens} tokens, {num_prompt_tokens} of the prompt included, may need "
            f"{num_needed} pages of {runner.page_size} tokens, and the KV cache has {runner.num_pages - 1}: lower "
            "beam_width or max_tokens, or raise kv_cache_memory_bytes",
            parameter="beam_width",
        )


def most_pages(num_prompt_tokens: int, num_tokens: int, width: int, page_size: int) -> int:
    """Pages of a search whose beams of `num_tokens` tokens, the prompt included, share the prompt's full pages only."""
    num_shared = num_prompt_tokens // page_size
    num_written = num_tokens - 1  # the last token is never computed
    return num_shared + width * max(-(-num_written // page_size) - num_shared, 0)


def _finish(beam: _EndedBeam) -> FinishedBeam:
    nodes = list(_lineage(beam.node))[::-1]
    return FinishedBeam(
        token_ids=tuple(node.token_id for node in nodes),
        cum_logprob=beam.score,
        candidates=tuple(node.candidates for node in nodes),
        is_stopped=beam.is_stopped,
    )


def _lineage(node: _Node | None) -> Iterator[_Node]:
    """The node and those before it, last first."""
    while node is not None:
        yield node
        node = node.parent
