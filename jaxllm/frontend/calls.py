"""One call of `generate`: its requests run together, and end together when the caller is gone."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from jaxllm.frontend.frontend import Frontend, PreparedRequest
from jaxllm.frontend.progress import BarFactory, GenerationProgress
from jaxllm.frontend.running_request import RunningRequest
from jaxllm.outputs import RequestOutput


class Call:
    """Requests that were added, and the outputs that come from them."""

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend
        self._outbox: deque[RequestOutput] = deque()
        self._requests: list[RunningRequest] = []

    def add(self, prepared: Sequence[PreparedRequest]) -> list[str]:
        """Adds all of the requests, or none; returns their ids."""
        added: list[RunningRequest] = []
        try:
            for request in prepared:
                added.append(self._frontend.add(request, self._outbox))
        except BaseException:
            self._frontend.drop(added)
            raise
        self._requests += added
        return [request.request_id for request in added]

    def stream(self) -> Iterator[RequestOutput]:
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

    def run(self, use_tqdm: bool | BarFactory) -> list[RequestOutput]:
        """The final outputs, in the order of the requests."""
        outputs: dict[str, RequestOutput] = {}
        with GenerationProgress(use_tqdm, total=len(self._requests)) as progress:
            for output in self.stream():
                outputs[output.request_id] = output
                progress.finish(output)
        return [outputs[request.request_id] for request in self._requests]


def run_call(
    frontend: Frontend, prepared: Sequence[PreparedRequest], use_tqdm: bool | BarFactory
) -> list[RequestOutput]:
    """The final outputs, in the order of the requests."""
    call = Call(frontend)
    call.add(prepared)
    return call.run(use_tqdm)


def stream_call(frontend: Frontend, prepared: Sequence[PreparedRequest]) -> Iterator[RequestOutput]:
    """Outputs as they come; nothing is added before the first is asked for."""
    call = Call(frontend)
    call.add(prepared)
    yield from call.stream()
