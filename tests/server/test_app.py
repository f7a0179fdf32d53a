from __future__ import annotations

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from jaxllm import __version__
from jaxllm.config import EngineConfig
from jaxllm.errors import ValidationError
from jaxllm.server.app import describe_routes
from jaxllm.server.config import ServerConfig
from jaxllm.server.fingerprint import make_fingerprint

REPLIES = {"hi": "hello"}


class Marking:
    """A middleware class."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def marked(message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-class", b"yes")]
            await send(message)

        await self._app(scope, receive, marked)


async def mark(request, call_next):
    """A middleware function."""
    response = await call_next(request)
    response.headers["x-function"] = "yes"
    return response


def test_users_middleware_sees_every_request(start) -> None:
    here = "tests.server.test_app"
    client = start(REPLIES, config={"middleware": (f"{here}.Marking", f"{here}:mark")})
    headers = client.get("/version").headers
    assert (headers["x-class"], headers["x-function"]) == ("yes", "yes")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere.Nothing", "middleware must be an import path such as package.module.Name, got 'nowhere.Nothing'"),
        ("os", "middleware must be an import path"),
        ("os.nothing", "middleware must be an import path"),
        ("os.sep", "middleware must name a class or an async function, got 'os.sep'"),
    ],
)
def test_middleware_that_is_none_is_refused(start, path, message) -> None:
    with pytest.raises(ValidationError, match=message):
        start(config={"middleware": (path,)})


def test_pages_of_other_origins_are_let_in_only_where_allowed(client, start) -> None:
    headers = {"Origin": "http://page"}
    assert "access-control-allow-origin" not in client.get("/version", headers=headers).headers
    open_to_all = start(config={"allowed_origins": ("*",)})
    assert open_to_all.get("/version", headers=headers).headers["access-control-allow-origin"] == "*"


def test_request_id_comes_back_in_a_header(client, start) -> None:
    headers = {"X-Request-Id": "7"}
    assert "x-request-id" not in client.get("/version", headers=headers).headers
    echoing = start(REPLIES, config={"enable_request_id_headers": True})
    assert echoing.get("/version", headers=headers).headers["x-request-id"] == "7"
    response = echoing.post("/v1/completions", {"prompt": "hi"})
    assert response.json()["id"] == f"cmpl-{response.headers['x-request-id']}"


def test_every_route_is_described(client) -> None:
    routes = describe_routes(client.app)
    assert "/v1/completions (POST)" in routes
    assert "/ping (GET, POST)" in routes


def test_fingerprint_tells_settings_apart() -> None:
    def fingerprint(mode: str = "full", value: str | None = None, **engine) -> str | None:
        server = ServerConfig(fingerprint_mode=mode, fingerprint_value=value)
        return make_fingerprint(EngineConfig(model="m", **engine), server)

    full, digest = fingerprint(), fingerprint("hash")
    assert full == f"jaxllm-{__version__}-{digest}"
    assert digest is not None
    assert len(digest) == 8
    assert fingerprint(dtype="float32") != full
    assert fingerprint(max_num_seqs=7) == full
    parallel = fingerprint(tensor_parallel_size=2)
    assert parallel is not None
    assert parallel.startswith(f"jaxllm-{__version__}-tp2-")
    assert fingerprint("none") is None
    assert fingerprint("custom", "mine") == "mine"


def test_answers_without_a_fingerprint_leave_it_out(start) -> None:
    client = start(REPLIES, config={"fingerprint_mode": "none"})
    assert client.complete("hi")["system_fingerprint"] is None
    assert "system_fingerprint" not in client.complete_stream("hi")[0]


def test_requests_are_logged_only_on_demand(client, caplog) -> None:
    with caplog.at_level("INFO", "jaxllm"):
        client.complete("hi")
    assert caplog.messages == []


def test_requests_and_outputs_are_logged(start, caplog) -> None:
    client = start(REPLIES, config={"enable_log_requests": True, "enable_log_outputs": True, "max_log_len": 3})
    with caplog.at_level("INFO", "jaxllm"):
        client.complete("hi", request_id="7")
        client.complete_stream("hi", request_id="8")
    received, generated, _, streamed = caplog.messages
    assert received.startswith("Request cmpl-7 prompt 0: 'hi', token ids [71, 72], SamplingParams(n=1")
    assert generated == "Request cmpl-7 prompt 0 answer 0: 'hel', finish_reason stop"
    assert streamed == "Request cmpl-8 prompt 0 answer 0: 'hel', finish_reason stop"


def test_server_takes_the_hugging_face_form_of_the_tokenizer_once(start) -> None:
    client = start()
    assert client.llm.get_tokenizer() is client.llm.get_tokenizer()
