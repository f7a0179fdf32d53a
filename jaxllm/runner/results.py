"""A dispatched step, and its results as the engine wants them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxllm.runner.beam_groups import BeamGroup, read_beams
from jaxllm.runner.beam_selection import PackedBeams, unpack_outputs
from jaxllm.runner.packed_scores import PackedScores, unpack_scores
from jaxllm.runner.sampler import TokenScores
from jaxllm.sampling_params import SamplingParams
from jaxllm.steps import NO_TARGET, BeamSelection, ScheduledStep, StepResult, TokenLogprobs

Fetch = Callable[[str], Any]
"""Copies part of what the step left on the device, and starts the transfer: tokens, top or prompt."""


class DispatchedStep:
    """Results on their way to the host; only what the step's requests asked for is copied."""

    def __init__(
        self,
        step: ScheduledStep,
        params: Sequence[SamplingParams],
        fetch: Fetch,
        beam_groups: Sequence[BeamGroup] = (),
        beams: PackedBeams | None = None,
    ) -> None:
        self._step = step
        self._params = params
        self._beam_groups = beam_groups
        self._tokens: Any = fetch("tokens")  # the type of jax arrays lacks is_ready
        wants_logprobs = any(p.logprobs is not None for p in params)
        wants_prompt = any(request.prompt_logprob_targets is not None for request in step.requests)
        self._top = fetch("top") if wants_logprobs else None
        self._prompt: PackedScores | None = fetch("prompt") if wants_prompt else None
        self._beams = beams
        for array in jax.tree.leaves(beams):
            array.copy_to_host_async()

    def is_ready(self) -> bool:
        """Whether `result` would return without waiting."""
        return bool(self._tokens.is_ready())

    def result(self) -> StepResult:
        """Waits for the device. A failure on the device is raised here."""
        token_ids = np.asarray(self._tokens)[0].tolist()
        requests = self._step.requests
        return StepResult(
            step_id=self._step.step_id,
            token_ids={
                r.request_id: token_ids[row] for row, r in enumerate(requests) if r.samples and r.beam_score is None
            },
            logprobs=self._logprobs(token_ids),
            prompt_logprobs=self._prompt_logprobs(),
            beams=self._selections(),
        )

    def _logprobs(self, token_ids: Sequence[int]) -> dict[str, TokenLogprobs]:
        if self._top is None:
            return {}
        scores = unpack_scores(self._tokens, self._top)
        rows = zip(self._step.requests, self._params, strict=True)
        return {
            request.request_id: _token_logprobs(scores, row, token_ids[row], params.logprobs)
            for row, (request, params) in enumerate(rows)
            if request.samples and params.logprobs is not None
        }

    def _selections(self) -> dict[str, BeamSelection]:
        if self._beams is None:
            return {}
        beams = unpack_outputs(self._beams)
        return {group.request_id: read_beams(group, beams) for group in self._beam_groups}

    def _prompt_logprobs(self) -> dict[str, list[TokenLogprobs]]:
        if self._prompt is None:
            return {}
        scores = unpack_scores(*self._prompt)
        found: dict[str, list[TokenLogprobs]] = {}
        token = 0
        for request, params in zip(self._step.requests, self._params, strict=True):
            targets = request.prompt_logprob_targets
            if targets is not None and params.prompt_logprobs is not None:
                found[request.request_id] = [
                    _token_logprobs(scores, token + at, int(target), params.prompt_logprobs)
                    for at, target in enumerate(targets)
                    if target != NO_TARGET
                ]
            token += request.num_tokens
        return found


def _token_logprobs(scores: TokenScores, row: int, token_id: int, count: int) -> TokenLogprobs:
    """Row `row` of host arrays; `count` of -1 keeps all."""
    kept = scores.top_ids.shape[1] if count == -1 else count
    return TokenLogprobs(
        token_id=token_id,
        logprob=float(scores.logprob[row]),
        rank=int(scores.rank[row]),
        top_token_ids=np.asarray(scores.top_ids[row, :kept]),
        top_logprobs=np.asarray(scores.top_logprobs[row, :kept]),
    )
