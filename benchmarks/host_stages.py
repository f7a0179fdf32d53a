"""Where the host's time of a step goes, from the engine's own counters."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxllm import JaxLLM

_STAGES = ("schedule", "dispatch", "wait", "update")


class HostStages:
    """Microseconds a step by stage, since the last report."""

    def __init__(self, llm: JaxLLM) -> None:
        self._llm = llm
        self._last = self._totals()

    def report(self) -> str:
        """Planning the step, handing it to the device, waiting for one, taking it in; the rest makes outputs."""
        totals = self._totals()
        seconds = [now - before for now, before in zip(totals, self._last, strict=True)]
        self._last = totals
        num_steps, elapsed, *stages = seconds
        spent = dict(zip(_STAGES, stages, strict=True)) | {"rest": elapsed - sum(stages)}
        each = ", ".join(f"{name} {value / max(num_steps, 1) * 1e6:,.0f}" for name, value in spent.items())
        return f"{num_steps:.0f} steps of {elapsed / max(num_steps, 1) * 1e6:,.0f} us: {each}"

    def _totals(self) -> list[float]:
        metrics = self._llm.get_metrics()
        values = [getattr(metrics, f"{stage}_seconds") for stage in _STAGES]
        return [metrics.num_steps_read, time.perf_counter(), *values]
