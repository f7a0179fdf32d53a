"""What the scheduler decides for a step, while it is put together and when it is whole."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxllm.engine.request import Request
from jaxllm.steps import ScheduledRequest, ScheduledStep, SlotStart


@dataclass(kw_only=True, slots=True)
class Plan:
    """A step while it is put together."""

    budget: int
    """Tokens that may still be added."""
    decodes: list[tuple[ScheduledRequest, Request]] = field(default_factory=list)
    chunks: list[tuple[ScheduledRequest, Request]] = field(default_factory=list)
    starts: list[SlotStart] = field(default_factory=list)
    num_beam_places: int = 0
    """Beams that the step's searches may choose."""
    page_loads: list[tuple[int, int]] = field(default_factory=list)
    """(host page, page) of requests that come back."""
    page_copies: list[tuple[int, int]] = field(default_factory=list)
    """(source, destination) of pages that beams stop sharing."""
    page_hashes: set[bytes] = field(default_factory=set)
    """Full pages that the chunks of this step complete."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to compute."""
        return not (self.decodes or self.chunks)

    def finish(self, step_id: int, num_tokens: int, page_saves: tuple[tuple[int, int], ...]) -> PlannedStep:
        """The whole step, which must have rows."""
        entries = self.decodes + self.chunks
        scheduled, requests = zip(*entries, strict=True)
        step = ScheduledStep(
            step_id=step_id,
            requests=scheduled,
            starts=tuple(self.starts),
            num_beam_places=self.num_beam_places,
            page_saves=page_saves,
            page_loads=tuple(self.page_loads),
            page_copies=tuple(self.page_copies),
        )
        return PlannedStep(step=step, requests=requests, num_tokens=num_tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedStep:
    """A step and the requests it serves."""

    step: ScheduledStep
    requests: tuple[Request, ...]
    """In the order of `step.requests`. Kept because an id may belong to a new request when the result comes."""
    num_tokens: int
    """Tokens that the step computes."""
