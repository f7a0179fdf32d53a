"""What listeners hear about finished requests and steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from jaxllm.outputs import FinishReason


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestStats:
    """One request that ended. Times are seconds of `time.time()`, exact to each other; None is what never came."""

    request_id: str
    arrival_time: float
    """When it was handed to the engine."""
    first_scheduled_time: float | None
    """When it first got pages and a place in a step."""
    first_token_time: float | None
    last_token_time: float | None
    finished_time: float
    num_prompt_tokens: int
    num_cached_tokens: int
    """Prompt tokens that the prefix cache had."""
    num_generation_tokens: int
    """Over all completions."""
    num_preemptions: int
    """How often its sequences lost their pages."""
    n: int
    """Completions that were asked for."""
    max_tokens: int
    """Most tokens of a completion."""
    finish_reasons: tuple[FinishReason, ...]
    """One per completion."""

    @property
    def queue_seconds(self) -> float | None:
        """From arrival until it was scheduled."""
        return _between(self.arrival_time, self.first_scheduled_time)

    @property
    def prefill_seconds(self) -> float | None:
        """From being scheduled to the first token."""
        return _between(self.first_scheduled_time, self.first_token_time)

    @property
    def decode_seconds(self) -> float | None:
        """From the first token to the last."""
        return _between(self.first_token_time, self.last_token_time)

    @property
    def inference_seconds(self) -> float | None:
        """From being scheduled to the last token."""
        return _between(self.first_scheduled_time, self.last_token_time)

    @property
    def total_seconds(self) -> float:
        """From arrival to the end."""
        return self.finished_time - self.arrival_time

    @property
    def seconds_per_output_token(self) -> float | None:
        """Mean time of a token after the first, where one completion has several."""
        num_intervals = self.num_generation_tokens / self.n - 1
        if self.decode_seconds is None or num_intervals <= 0:
            return None
        return self.decode_seconds / num_intervals


@dataclass(frozen=True, kw_only=True, slots=True)
class StepStats:
    """One step whose results were read, and what happened since the step before."""

    num_tokens: int
    """Prompt and decode tokens that the step computed."""
    num_prompt_tokens: int
    """Prompt tokens of requests admitted since the step before, cached ones included."""
    num_generation_tokens: int
    """Tokens that the step drew."""
    num_running: int
    """Sequences that hold pages now."""
    num_waiting: int
    """Sequences that wait for pages now."""
    kv_cache_usage: float
    """Share of the pages held by running sequences, 0 to 1."""
    num_preemptions: int
    """Sequences that lost their pages since the step before."""
    prefix_cache_queries: int
    """Prompt tokens looked up in the prefix cache since the step before."""
    prefix_cache_hits: int
    """Those of them that were found."""
    schedule_seconds: float
    """Host time of planning."""
    dispatch_seconds: float
    """Host time of handing the step to the device."""
    wait_seconds: float
    """Time of waiting for the device and reading."""
    output_seconds: float
    """Host time of taking results in: requests, texts, outputs."""
    num_compiles: int
    """Programs compiled in this process since the engine was ready; anything but 0 stalls requests."""
    times_to_first_token: Sequence[float]
    """Seconds from the arrival to the first token, of requests whose first token came with this step."""
    inter_token_latencies: Sequence[float]
    """Seconds since the token before, of each sequence that got a further one."""

    @property
    def host_seconds(self) -> float:
        """What the host took, waiting aside."""
        return self.schedule_seconds + self.dispatch_seconds + self.output_seconds

    @property
    def total_seconds(self) -> float:
        """What the step took, as the requests felt it."""
        return self.host_seconds + self.wait_seconds


class StatsListener(Protocol):
    """Hears of steps and requests in the thread that runs them, so it must be quick, and must not call the engine."""

    def on_step(self, stats: StepStats) -> None:
        """A step's results were read and handed out."""
        ...

    def on_finished(self, stats: RequestStats) -> None:
        """A request ended, for whatever reason."""
        ...


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else end - start
