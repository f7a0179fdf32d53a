"""From a ScheduledStep to the arrays of its program: NumPy only, on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxllm.runner.beam_groups import BeamGroup, find_beam_groups
from jaxllm.runner.layout import FLAGS, ROW_PARAMETERS, Layout, row_parameter_dtype
from jaxllm.runner.token_packing import pack_tokens
from jaxllm.sampling_params import MAX_LOGIT_EDITS, SamplingParams
from jaxllm.steps import ScheduledRequest, SlotStart

_FLAG_BITS = {name: 1 << bit for bit, name in enumerate(FLAGS)}
_UNUSED_EDIT = -1
_GREEDY_TEMPERATURE = 1e-5


class HostConstraints(NamedTuple):
    """Rows of `jaxllm.runner.token_sampler.Constraints`; None where no request of the step asks."""

    edits: tuple[np.ndarray, np.ndarray] | None
    """(int32 [rows, MAX_LOGIT_EDITS], float32 of the same shape)"""
    bitmask: np.ndarray | None
    """uint32 [rows, ceil(vocab / 32)]"""


class PackedStep(NamedTuple):
    """A step as arrays of the host."""

    buffer: np.ndarray
    """int32 [layout.size]"""
    constraints: HostConstraints
    needs_sampler: bool
    """Some row wants more than its likeliest token."""
    needs_prompt_scores: bool


class SlotTable:
    """What the host keeps per slot: sampling parameters as arrays, and the requests' constraints."""

    def __init__(self, max_num_seqs: int, vocab_size: int, page_size: int) -> None:
        self.num_slots = max_num_seqs
        self.page_size = page_size
        self.vocab_size = vocab_size
        self._parameters = {name: np.zeros(max_num_seqs + 1, row_parameter_dtype(name)) for name in ROW_PARAMETERS}
        self._parameters["top_p"][:] = self._parameters["repetition_penalty"][:] = 1.0
        self._flags = np.zeros(max_num_seqs + 1, np.int32)
        self._starts: dict[int, SlotStart] = {}
        self._allowed: dict[int, np.ndarray] = {}
        self._edited: set[int] = set()  # slots whose requests may change logits

    def start(self, start: SlotStart) -> None:
        """Takes over the parameters of the slot's new request."""
        params, slot = start.sampling_params, start.slot
        self._starts[slot] = start
        columns = self._parameters
        columns["temperature"][slot] = params.temperature
        columns["top_k"][slot] = params.top_k
        columns["top_p"][slot] = params.top_p
        columns["min_p"][slot] = params.min_p
        columns["presence_penalty"][slot] = params.presence_penalty
        columns["frequency_penalty"][slot] = params.frequency_penalty
        columns["repetition_penalty"][slot] = params.repetition_penalty
        columns["seed_low"][slot] = start.seed & 0xFFFFFFFF
        columns["seed_high"][slot] = (start.seed >> 32) & 0xFFFFFFFF
        self._allowed.pop(slot, None)
        if params.allowed_token_ids:
            self._allowed[slot] = _pack_bits(params.allowed_token_ids, self.vocab_size)
        self._edited.discard(slot)
        if params.logit_bias or params.min_tokens > 0 or start.bad_word_ids:
            self._edited.add(slot)
        self._flags[slot] = self._static_flags(params, slot)

    def params(self, slot: int) -> SamplingParams:
        return self._starts[slot].sampling_params

    def beam_groups(self, requests: Sequence[ScheduledRequest]) -> list[BeamGroup]:
        """The beam searches among the rows of a step."""
        return find_beam_groups(requests, self._starts)

    def beam_bitmask(self, requests: Sequence[ScheduledRequest]) -> np.ndarray | None:
        """uint32 [requests, ceil(vocab / 32)] of the tokens that each row may propose; None if all may have all."""
        slots = np.array([request.slot for request in requests], np.int32)
        return self._bitmask(slots) if any(slot in self._allowed for slot in slots.tolist()) else None

    def _static_flags(self, params: SamplingParams, slot: int) -> int:
        wanted = {
            "any_random": params.temperature >= _GREEDY_TEMPERATURE,
            "any_penalties": has_penalties(params),
            "any_bitmask": slot in self._allowed,
            "any_logprobs": params.logprobs is not None,
        }
        return sum(_FLAG_BITS[name] for name, is_wanted in wanted.items() if is_wanted)

    def pack(self, requests: Sequence[ScheduledRequest], layout: Layout) -> PackedStep:
        """The step's buffer, and what comes behind the step."""
        buffer = np.zeros(layout.size, np.int32)
        views = layout.views(buffer)
        num_rows = len(requests)
        slots = np.full(layout.bucket.num_rows, self.num_slots, np.int32)
        slots[:num_rows] = [request.slot for request in requests]
        views["slot"][:] = slots
        views["write_slot"][:] = self.num_slots
        views["write_slot"][:num_rows] = [
            r.slot if r.samples and r.beam_score is None else self.num_slots for r in requests
        ]
        for name, column in self._parameters.items():
            views[name][:] = column[slots]
        pack_tokens(requests, views, self.page_size)
        sampling = [request for request in requests if request.samples and request.beam_score is None]
        flags = int(np.bitwise_or.reduce(self._flags[[r.slot for r in sampling]], initial=0))
        edits = self._edits(requests, layout.bucket.num_rows)
        flags |= _FLAG_BITS["any_edits"] if edits is not None else 0
        views["flags"][...] = flags
        bitmask = self._bitmask(slots) if flags & _FLAG_BITS["any_bitmask"] else None
        return PackedStep(
            buffer,
            HostConstraints(edits, bitmask),
            needs_sampler=flags != 0,
            needs_prompt_scores=any(request.prompt_logprob_targets is not None for request in requests),
        )

    def _bitmask(self, slots: np.ndarray) -> np.ndarray:
        words = np.full((len(slots), -(-self.vocab_size // 32)), 0xFFFFFFFF, np.uint32)
        for row, slot in enumerate(slots.tolist()):
            if slot in self._allowed:
                words[row] = self._allowed[slot]
        return words

    def _edits(self, requests: Sequence[ScheduledRequest], num_rows: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Biases and bans of the rows; None when there are none."""
        ids = values = None
        edited = [row for row, request in enumerate(requests) if request.slot in self._edited] if self._edited else ()
        for row in edited:
            request = requests[row]
            entries = self._row_edits(request) if request.samples else {}
            if not entries:
                continue
            if ids is None or values is None:
                ids = np.full((num_rows, MAX_LOGIT_EDITS), _UNUSED_EDIT, np.int32)
                values = np.zeros((num_rows, MAX_LOGIT_EDITS), np.float32)
            ids[row, : len(entries)] = list(entries)
            values[row, : len(entries)] = list(entries.values())
        return None if ids is None or values is None else (ids, values)

    def _row_edits(self, request: ScheduledRequest) -> dict[int, float]:
        start = self._starts[request.slot]
        params = start.sampling_params
        entries = dict(params.logit_bias) if params.logit_bias else {}
        if request.num_output_tokens < params.min_tokens:
            entries |= dict.fromkeys(start.stop_token_ids, -np.inf)
        if start.bad_word_ids:
            entries |= dict.fromkeys(_banned_by_words(start.bad_word_ids, request), -np.inf)
        return entries


def has_penalties(params: SamplingParams) -> bool:
    """Whether the request needs its tokens counted on the device."""
    return params.presence_penalty != 0 or params.frequency_penalty != 0 or params.repetition_penalty != 1


def _pack_bits(token_ids: Sequence[int], vocab_size: int) -> np.ndarray:
    """uint32 [ceil(vocab / 32)] with the bits of the given tokens set."""
    is_allowed = np.zeros(-(-vocab_size // 32) * 32, np.uint8)
    is_allowed[list(token_ids)] = 1
    return np.packbits(is_allowed, bitorder="little").view(np.uint32)


def _banned_by_words(words: tuple[tuple[int, ...], ...], request: ScheduledRequest) -> list[int]:
    """Last tokens of the bad words whose beginning the output ends with."""
    recent = () if request.recent_token_ids is None else tuple(request.recent_token_ids.tolist())
    outputs = recent[max(0, len(recent) - request.num_output_tokens) :] if request.num_output_tokens else ()
    return [
        word[-1]
        for word in words
        if len(word) == 1 or (len(outputs) >= len(word) - 1 and outputs[1 - len(word) :] == word[:-1])
    ]
