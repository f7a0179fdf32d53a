"""Online serving: many clients at once against a server, and how long each waited."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from jaxllm.bench.arrivals import arrival_times
from jaxllm.bench.serving_client import ServedRequest, ServingClient, ServingEndpoint, list_models
from jaxllm.bench.serving_requests import ServingRequest
from jaxllm.errors import JaxLLMError

RETRY_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class ServingLoad:
    """How requests are sent."""

    request_rate: float = float("inf")
    """Requests per second; infinite sends all at once."""
    burstiness: float = 1.0
    """Shape of the gaps between requests: `jaxllm.bench.arrivals`."""
    max_concurrency: int | None = None
    """Most requests that run at once; the others wait before they are sent."""
    seed: int = 0
    num_warmups: int = 0
    """Requests before the measured ones."""
    ready_timeout: float = 0.0
    """Seconds to wait for a server that doesn't answer yet."""


@dataclass(frozen=True, kw_only=True)
class ServingRun:
    """What was served, in the order of the requests."""

    served: list[ServedRequest]
    duration: float
    """Seconds from the first request to the last answer."""


def run_serving(
    endpoint: ServingEndpoint, requests: Sequence[ServingRequest], load: ServingLoad, *, use_tqdm: bool = True
) -> ServingRun:
    """Asks once to see that the server answers, then sends all requests as `load` says."""
    _allow_open_files()
    return _run(_serve(endpoint, requests, load, use_tqdm))


def find_model(base_url: str, headers: Mapping[str, str]) -> str:
    """The first model that a server offers."""
    models = _run(list_models(base_url, headers))
    if not models:
        raise JaxLLMError(f"the server at {base_url} offers no model")
    return models[0]


async def _serve(
    endpoint: ServingEndpoint, requests: Sequence[ServingRequest], load: ServingLoad, use_tqdm: bool
) -> ServingRun:
    times = arrival_times(len(requests), request_rate=load.request_rate, burstiness=load.burstiness, seed=load.seed)
    async with ServingClient(endpoint) as client:
        await _wait_until_ready(client, requests[0], load.ready_timeout)
        warmups = [requests[index % len(requests)] for index in range(load.num_warmups)]
        await _send_all(client, warmups, [0.0] * len(warmups), load.max_concurrency, lambda: None)
        with tqdm(total=len(requests), disable=not use_tqdm, unit="request") as bar:
            start = time.perf_counter()
            served = await _send_all(client, requests, times, load.max_concurrency, bar.update)
            duration = time.perf_counter() - start
    return ServingRun(served=served, duration=duration)


async def _wait_until_ready(client: ServingClient, request: ServingRequest, timeout: float) -> None:
    """Sends one request, again and again until `timeout`; raises when the server doesn't answer it."""
    deadline = time.perf_counter() + timeout
    while (error := (await client.send(request)).error) is not None:
        if time.perf_counter() > deadline:
            raise JaxLLMError(f"the first request failed, so nothing was measured: {error}")
        await asyncio.sleep(RETRY_SECONDS)


async def _send_all(
    client: ServingClient,
    requests: Sequence[ServingRequest],
    times: Sequence[float],
    max_concurrency: int | None,
    advance: Callable[[], object],
) -> list[ServedRequest]:
    limit = contextlib.nullcontext() if max_concurrency is None else asyncio.Semaphore(max_concurrency)

    async def send(request: ServingRequest) -> ServedRequest:
        async with limit:
            served = await client.send(request)
        advance()
        return served

    start = time.perf_counter()
    tasks = []
    async with asyncio.TaskGroup() as group:
        for request, seconds in zip(requests, times, strict=True):
            delay = start + seconds - time.perf_counter()
            if delay > 0:
                await asyncio.sleep(delay)
            tasks.append(group.create_task(send(request)))
    return [task.result() for task in tasks]


def _allow_open_files() -> None:
    """Lets the process have as many connections as the system allows: 1024, a common default, is soon too few."""
    if sys.platform == "win32":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS refuses the unlimited hard limit that it reports.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _run[T](coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs on uvloop, which leaves more of the machine to the server, where there is one."""
    if sys.platform == "win32":
        return asyncio.run(coroutine)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)
