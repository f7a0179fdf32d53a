from __future__ import annotations

import resource
from typing import Any

import pytest

from jaxllm.bench.serving import ServingLoad, ServingRun, find_model, run_serving
from jaxllm.bench.serving_client import ServingEndpoint
from jaxllm.bench.serving_requests import ServingRequest
from jaxllm.errors import JaxLLMError
from tests.bench.fake_server import FakeServer, serving


def make_requests(*output_lens: int) -> list[ServingRequest]:
    return [ServingRequest(prompt=[1, 2, 3], prompt_len=3, output_len=length) for length in output_lens]


def run(
    server: FakeServer, requests: list[ServingRequest], *, is_chat: bool = False, load: Any = None, **fields: Any
) -> ServingRun:
    """Runs over the fake server; its request 0 is the one that sees whether it answers."""
    with serving(server) as url:
        endpoint = ServingEndpoint(
            url=f"{url}/v1/{'chat/' if is_chat else ''}completions",
            is_chat=is_chat,
            fields={"model": "fake", **fields},
            headers={"Authorization": "Bearer k"},
        )
        return run_serving(endpoint, requests, load or ServingLoad(), use_tqdm=False)


def test_every_request_is_served_in_order() -> None:
    served = run(FakeServer(), make_requests(1, 5, 3)).served
    assert [len(one.token_times) for one in served] == [1, 5, 3]
    assert [one.text for one in served] == [" tok", " tok" * 5, " tok" * 3]
    assert [one.usage["completion_tokens"] for one in served if one.usage] == [1, 5, 3]
    assert [(one.prompt_len, one.error) for one in served] == [(3, None)] * 3


def test_request_says_what_is_asked() -> None:
    server = FakeServer()
    run(server, make_requests(4), ignore_eos=True, temperature=0.5)
    assert server.bodies[-1] == {
        "prompt": [1, 2, 3],
        "max_tokens": 4,
        "stream": True,
        "stream_options": {"include_usage": True},
        "model": "fake",
        "ignore_eos": True,
        "temperature": 0.5,
    }
    assert server.headers[-1]["Authorization"] == "Bearer k"


def test_chat_sends_a_message_and_leaves_the_first_chunk_out() -> None:
    server = FakeServer(reasoning=["hm "], tokens=["a", "b"])
    [served] = run(server, [ServingRequest(prompt="Hi", prompt_len=None, output_len=9)], is_chat=True).served
    assert (served.text, len(served.token_times), served.error) == ("hm ab", 3, None)
    assert server.bodies[-1]["messages"] == [{"role": "user", "content": "Hi"}]
    assert server.bodies[-1]["max_completion_tokens"] == 9


def test_times_follow_each_other() -> None:
    [served] = run(FakeServer(chunk_seconds=0.001), make_requests(4)).served
    assert served.token_times == sorted(served.token_times)
    assert 0 < served.ttft < served.latency
    assert served.ttft + sum(served.inter_token_latencies) == pytest.approx(served.latency)


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (FakeServer(failures={1: (503, "full")}), "HTTP 503: full"),
        (FakeServer(error_after={1: 2}), "the engine died"),
        (FakeServer(cut_after={1: 2}), "ClientPayloadError: "),
    ],
)
def test_failure_is_noted_and_the_others_go_on(server: FakeServer, message: str) -> None:
    served = run(server, make_requests(4, 4), load=ServingLoad(max_concurrency=1)).served
    assert served[0].error is not None
    assert served[0].error.startswith(message)
    assert (served[1].error, len(served[1].token_times)) == (None, 4)


def test_stream_without_its_end_is_a_failure() -> None:
    with pytest.raises(JaxLLMError, match=r"nothing was measured: the stream ended before \[DONE\]$"):
        run(FakeServer(says_done=False), make_requests(1))


def test_stream_without_tokens_is_a_failure() -> None:
    [served] = run(FakeServer(tokens_by_request={1: []}), make_requests(1)).served
    assert served.error == "the stream brought no tokens"


def test_no_more_run_at_once_than_allowed() -> None:
    server = FakeServer(chunk_seconds=0.001)
    run(server, make_requests(*[3] * 20), load=ServingLoad(max_concurrency=4))
    assert server.max_running == 4


def test_without_a_limit_all_run_at_once() -> None:
    server = FakeServer(chunk_seconds=0.02)
    run(server, make_requests(*[10] * 100))
    assert server.max_running == 100


def test_process_may_open_as_many_connections_as_the_system_allows() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    try:
        run(FakeServer(), make_requests(1))
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_rate_spreads_the_requests() -> None:
    result = run(FakeServer(), make_requests(*[1] * 10), load=ServingLoad(request_rate=100.0))
    starts = [served.start for served in result.served]
    assert starts == sorted(starts)
    assert result.duration >= 0.1


def test_warm_ups_are_sent_and_not_counted() -> None:
    server = FakeServer()
    assert len(run(server, make_requests(1, 2), load=ServingLoad(num_warmups=3)).served) == 2
    assert len(server.bodies) == 1 + 3 + 2


def test_warmups_keep_the_limit_of_concurrency() -> None:
    server = FakeServer(chunk_seconds=0.001)
    run(server, make_requests(3), load=ServingLoad(num_warmups=6, max_concurrency=2))
    assert (len(server.bodies), server.max_running) == (1 + 6 + 1, 2)


def test_token_ids_are_kept_where_they_are_asked_for() -> None:
    [served] = run(FakeServer(), make_requests(3), return_token_ids=True).served
    assert served.token_ids == [0, 1, 2]
    [served] = run(FakeServer(), make_requests(3)).served
    assert served.token_ids == []


def test_nothing_is_measured_when_the_first_request_fails() -> None:
    with pytest.raises(
        JaxLLMError, match=r"^the first request failed, so nothing was measured: HTTP 400: prompt must be a string$"
    ):
        run(FakeServer(takes_token_ids=False), make_requests(1))


def test_server_that_is_not_ready_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxllm.bench.serving.RETRY_SECONDS", 0.01)
    server = FakeServer(failures={0: (503, "loading"), 1: (503, "loading")})
    run(server, make_requests(1), load=ServingLoad(ready_timeout=60))
    assert len(server.bodies) == 4


def test_model_is_the_first_that_the_server_lists() -> None:
    with serving(FakeServer(models=("a", "b"))) as url:
        assert find_model(url, {}) == "a"


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (FakeServer(models=()), r"^the server at http.* offers no model$"),
        (FakeServer(api_key="k"), r"^http.*/v1/models answered HTTP 401: wrong key$"),
    ],
)
def test_server_without_a_model_is_an_error(server: FakeServer, message: str) -> None:
    with serving(server) as url, pytest.raises(JaxLLMError, match=message):
        find_model(url, {})


def test_missing_server_is_an_error() -> None:
    with pytest.raises(JaxLLMError, match=r"^no server at http://127.0.0.1:9 \(.*\); `jaxllm serve MODEL` starts one"):
        find_model("http://127.0.0.1:9", {})
