"""One call of `generate`: its requests run together, and end together when the caller is gone."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator, Sequence
from typing import Any, cast

from jaxllm.frontend.frontend import Frontend
from jaxllm.frontend.progress import BarFactory, GenerationProgress
from jaxllm.frontend.request_maker import Prepared, Running
from jaxllm.frontend.running_request import Outbox
from jaxllm.outputs import BeamSearchOutput, RequestOutput, as_request_output
from jaxllm.validation import check_int

logger = logging.getLogger(__name__)


class Call:
    """Requests that were added, and the outputs that come from them."""

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend
        self._outbox: Outbox = deque()
        self._requests: list[Running] = []

    def add(self, prepared: Sequence[Prepared]) -> list[str]:
        """Adds all of the requests, or none; returns their ids."""
        added: list[Running] = []
        try:
            for request in prepared:
                added.append(self._frontend.add(request, self._outbox))
        except BaseException:
            self._frontend.drop(added)
            raise
        self._requests += added
        return [request.request_id for request in added]

    def stream(self) -> Generator[RequestOutput | BeamSearchOutput]:
        """Outputs as they come. Whatever ends the iteration early (an error, Ctrl-C, `close`) ends the requests too."""
        try:
            num_running = len(self._requests)
            while num_running:
                while not self._outbox:
                    self._frontend.step()
                output = self._outbox.popleft()
                num_running -= output.finished
                yield output
        finally:
            self._frontend.drop(self._requests)

    def run(self, use_tqdm: bool | BarFactory) -> list[RequestOutput | BeamSearchOutput]:
        """The final outputs, in the order of the requests."""
        outputs: dict[str, RequestOutput | BeamSearchOutput] = {}
        try:
            with GenerationProgress(use_tqdm, total=len(self._requests)) as progress:
                for output in self.stream():
                    outputs[output.request_id] = output
                    progress.finish(output)
        finally:
            self._frontend.drop(self._requests)  # the stream does it, but a bar that fails keeps it from starting
        return [outputs[request.request_id] for request in self._requests]


def run_call(frontend: Frontend, prepared: Sequence[Prepared], use_tqdm: bool | BarFactory) -> list[RequestOutput]:
    """The final outputs, in the order of the requests."""
    return [as_request_output(output) for output in _run(frontend, prepared, use_tqdm)]


def run_searches(
    frontend: Frontend, prepared: Sequence[Prepared], use_tqdm: bool | BarFactory, concurrency_limit: Any
) -> list[BeamSearchOutput]:
    """The results of beam searches in their order; `concurrency_limit` of them run at once."""
    limit = max(len(prepared), 1)
    if concurrency_limit is not None:
        limit = check_int("concurrency_limit", concurrency_limit, low=1)
        if use_tqdm is not False:
            logger.warning("There is no progress bar with concurrency_limit.")
            use_tqdm = False
    outputs: list[RequestOutput | BeamSearchOutput] = []
    for start in range(0, len(prepared), limit):
        outputs += _run(frontend, prepared[start : start + limit], use_tqdm)
    return cast("list[BeamSearchOutput]", outputs)


def stream_call(frontend: Frontend, prepared: Sequence[Prepared]) -> Generator[RequestOutput]:
    """Outputs as they come; nothing is added before the first is asked for. There may be no beam search."""
    call = Call(frontend)
    call.add(prepared)
    yield from cast("Generator[RequestOutput]", call.stream())


def _run(
    frontend: Frontend, prepared: Sequence[Prepared], use_tqdm: bool | BarFactory
) -> list[RequestOutput | BeamSearchOutput]:
    call = Call(frontend)
    call.add(prepared)
    return call.run(use_tqdm)
