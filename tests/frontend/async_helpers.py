"""What tests of AsyncJaxLLM share: parameters, and ways to wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine
from typing import Any

from jaxllm.async_llm import AsyncJaxLLM
from jaxllm.sampling_params import RequestOutputKind, SamplingParams
from tests.frontend.helpers import Gate

DELTA = SamplingParams(max_tokens=30, output_kind=RequestOutputKind.DELTA)
CUMULATIVE = SamplingParams(max_tokens=30)
FINAL_ONLY = SamplingParams(max_tokens=30, output_kind=RequestOutputKind.FINAL_ONLY)


def run(coroutine: Coroutine[Any, Any, Any], llm: AsyncJaxLLM | None = None) -> Any:
    """Runs on a loop of its own, ends the engine, and fails rather than hang."""

    async def limited() -> Any:
        async with asyncio.timeout(60):
            return await coroutine

    try:
        return asyncio.run(limited())
    finally:
        if llm is not None:
            llm.shutdown()


async def until(condition: Callable[[], object]) -> None:
    """Waits until the condition is true, with the event loop running."""
    while not condition():
        await asyncio.sleep(0.001)


async def collect(outputs: AsyncIterable[Any]) -> list[Any]:
    """Everything that comes."""
    return [output async for output in outputs]


async def next_behind(gate: Gate, outputs: AsyncGenerator[Any], *, num_steps: int) -> Any:
    """The next output, once `num_steps` steps have come to the gate and gone on.

    The engine is one step ahead of what it has read, so the first output takes two.
    """
    reading = asyncio.ensure_future(anext(outputs))
    for _ in range(num_steps):
        await asyncio.to_thread(gate.wait_for_step)
        gate.pass_one()
    return await reading
