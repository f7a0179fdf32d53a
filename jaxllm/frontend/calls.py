"""One call of `generate`: its requests run together, and end together when the caller is gone."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from jaxllm.frontend.frontend import Frontend, PreparedRequest
from jaxllm.frontend.progress import BarFactory, GenerationProgress
from jaxllm.frontend.running_request import RunningRequest
from jaxllm.outputs import RequestOutput


def run_call(
    frontend: Frontend, prepared: Sequence[PreparedRequest], use_tqdm: bool | BarFactory
) -> list[RequestOutput]:
    """The final outputs, in the order of the requests."""
    outputs: dict[str, RequestOutput] = {}
    with GenerationProgress(use_tqdm, total=len(prepared)) as progress:
        for output in stream_call(frontend, prepared):
            outputs[output.request_id] = output
            progress.finish(output)
    return sorted(outputs.values(), key=lambda output: int(output.request_id))


def stream_call(frontend: Frontend, prepared: Sequence[PreparedRequest]) -> Iterator[RequestOutput]:
    """Outputs as they come. Whatever ends the iteration early (an error, Ctrl-C, `close`) ends the requests too."""
    outbox: deque[RequestOutput] = deque()
    requests: list[RunningRequest] = []
    try:
        for request in prepared:
            requests.append(frontend.add(request, outbox))
        num_running = len(requests)
        while num_running:
            while not outbox:
                frontend.step()
            output = outbox.popleft()
            num_running -= output.finished
            yield output
    finally:
        frontend.drop(requests)
