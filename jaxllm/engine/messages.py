"""Turns requests into the messages of a step."""

from __future__ import annotations

import numpy as np

from jaxllm.engine.beam_search import Beam
from jaxllm.engine.request import Request
from jaxllm.steps import NO_TARGET, ScheduledRequest, SlotStart


def make_slot_start(request: Request) -> SlotStart:
    """What the device must know about a request that was just given a slot."""
    assert request.slot is not None, f"request {request.request_id} has no slot"
    assert request.num_unread == 0, f"request {request.request_id} takes a slot with unread tokens"
    token_ids = request.token_ids
    return SlotStart(
        slot=request.slot,
        sampling_params=request.sampling_params,
        seed=request.seed,
        prompt_token_ids=token_ids[: request.num_prompt_tokens],
        output_token_ids=token_ids[request.num_prompt_tokens :],
        stop_token_ids=tuple(sorted(request.eos_token_ids | request.stop_token_ids)),
        beam=None if request.search is None else request.search.settings,
        bad_word_ids=request.bad_word_ids,
    )


def make_scheduled_request(request: Request, num_tokens: int) -> ScheduledRequest:
    """The message for the request's next `num_tokens` tokens; changes nothing."""
    assert request.slot is not None, f"request {request.request_id} has no slot"
    start = request.num_computed_tokens
    end = start + num_tokens
    num_drawn = request.num_tokens + request.num_unread
    samples = end == num_drawn
    token_ids = request.token_ids[start:end] if start < request.num_tokens else None
    recent_token_ids = _recent_token_ids(request) if samples and request.num_recent_tokens > 0 else None
    targets = _prompt_logprob_targets(request, start, end) if start < request.num_prompt_tokens else None
    return ScheduledRequest(  # by position: this is made hundreds of times a step, and keywords double its cost
        request.request_id,
        request.slot,
        start,
        num_tokens,
        token_ids,
        request.page_ids,
        samples,
        num_drawn - request.num_prompt_tokens,
        recent_token_ids,
        targets,
        0.0 if samples and request.search is not None else None,
    )


def make_beam_row(request: Request, beam: Beam) -> ScheduledRequest:
    """The message for the last token of a live beam."""
    assert request.slot is not None, f"request {request.request_id} has no slot"
    assert request.search is not None, f"request {request.request_id} has no beams"
    num_generated = request.search.num_generated
    return ScheduledRequest(
        request.request_id,
        request.slot,
        request.num_prompt_tokens + num_generated - 1,
        1,
        np.array([beam.last_token_id], np.int32),
        beam.page_ids,
        samples=True,
        num_output_tokens=num_generated,
        beam_score=beam.score,
    )


def _recent_token_ids(request: Request) -> np.ndarray:
    assert request.num_unread == 0, f"request {request.request_id} needs tokens that were not read"
    return request.token_ids[-request.num_recent_tokens :]


def _prompt_logprob_targets(request: Request, start: int, end: int) -> np.ndarray | None:
    """The followers of the tokens start..end-1, without those that were asked for before a preemption."""
    first_new = request.num_prompt_logprobs + 1  # position of the first prompt token that still lacks its logprobs
    if request.sampling_params.prompt_logprobs is None or end < first_new or first_new >= request.num_prompt_tokens:
        return None
    positions = np.arange(start + 1, end + 1)
    targets = np.full(end - start, NO_TARGET, np.int32)
    wanted = (positions >= first_new) & (positions < request.num_prompt_tokens)
    targets[wanted] = request.token_ids[positions[wanted]]
    return targets
