"""Requests that are malformed, too large or not allowed, against a real server: it refuses them and goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.fault_server import AUTHORIZATION, KEYS, LONG, MIB, NEEDS, answer, post, watched
from tests.e2e.raw_client import RawClient, http_post
from tests.e2e.server_process import ServerProcess

pytestmark = NEEDS


@pytest.fixture(autouse=True)
def server(fault_server: ServerProcess) -> Iterator[ServerProcess]:
    """It goes on as before, and holds nothing, whatever a test did to it."""
    yield from watched(fault_server)


MALFORMED = {
    "nothing": b"",
    "half": b'{"prompt": "a',
    "other types": b'"text"',
    "a list": b"[]",
    "null": b"null",
    "deep": b"[" * 200_000,
    "deep inside": b'{"prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "bytes": b"\xff\xfe\x00\x01",
    "a surrogate": b'{"prompt": "\\ud800"}',
    "NaN": b'{"prompt": "a", "temperature": NaN}',
    "infinite": b'{"prompt": "a", "temperature": 1e999}',
    "a huge number": b'{"prompt": "a", "seed": 1' + b"0" * 4000 + b"}",
    "a number too huge for Python": b'{"prompt": "a", "seed": 1' + b"0" * 10_000 + b"}",
    "huge tokens": b'{"prompt": [99999999999999999999]}',
    "negative tokens": b'{"prompt": [-1]}',
    "no prompt": b'{"max_tokens": 3}',
    "an empty prompt": b'{"prompt": ""}',
    "mixed prompts": b'{"prompt": ["a", 1]}',
    "wrong types": b'{"prompt": "a", "max_tokens": "many", "stream": {}, "n": [1]}',
}


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"])
def test_malformed_bodies_are_refused(server: ServerProcess, path: str):
    refused = {name: answer(server, http_post(path, body, **AUTHORIZATION)) for name, body in MALFORMED.items()}
    if path == "/tokenize":  # some of the prompts, and the sampling, are nothing wrong there
        refused = {name: one for name, one in refused.items() if "prompt" not in name and one[0] != 200}
    assert {name: status for name, (status, _) in refused.items()} == dict.fromkeys(refused, 400)
    assert all(body["error"]["message"] for _, body in refused.values())


def test_what_is_not_http_is_refused(server: ServerProcess):
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(505)  # of TLS
    for data in (hello, b"GET\r\n\r\n", b"POST / HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 2**17 + b" HTTP/1.1\r\n\r\n"):
        with RawClient(server.address) as client:
            client.send(data)
            client.read()
            assert client.received.startswith(b"HTTP/1.1 400")


def test_blank_lines_come_before_a_request(server: ServerProcess):
    with RawClient(server.address) as client:
        client.send(b"\r\n" * 5000 + b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n")
        assert client.read_answer()[0] == 200


def test_wrong_lengths_are_refused(server: ServerProcess):
    head = b"POST /v1/completions HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {KEYS[0]}\r\n".encode()
    for data in (
        b"Content-Length: -5\r\n\r\n{}",
        b"Content-Length: x\r\n\r\n{}",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ):
        with RawClient(server.address) as client:
            client.send(head + data)
            client.read()
            assert client.received.startswith(b"HTTP/1.1 400")
    with RawClient(server.address) as client:
        client.send(head + b"Content-Length: 100000\r\n\r\n{")


def test_large_bodies(server: ServerProcess):
    texts = http_post("/v1/completions", {"prompt": "word " * (2 * MIB), "max_tokens": 5}, **AUTHORIZATION)
    tokens = http_post("/v1/completions", {"prompt": [7] * (3 * MIB), "max_tokens": 5}, **AUTHORIZATION)
    rows = http_post("/v1/completions", {"prompt": [[7]] * (2 * MIB), "max_tokens": 5}, **AUTHORIZATION)
    unknown = http_post("/v1/completions", {"prompt": 1.5, "other": "x" * (10 * MIB)}, **AUTHORIZATION)
    many = http_post("/v1/chat/completions", {"messages": [{"role": "user"}] * 500_000}, **AUTHORIZATION)
    for data in (texts, tokens, rows, unknown, many):
        status, body = answer(server, data)
        assert (status, body["error"]["code"]) == (400, 400)
        assert len(body["error"]["message"]) < 5000


def test_bodies_beyond_the_limit(server: ServerProcess):
    with RawClient(server.address) as client:
        for _ in range(2):  # the connection stays of use
            client.received = b""
            client.send(http_post("/v1/completions", b" " * (33 * MIB), **AUTHORIZATION))
            status, body = client.read_answer()
            assert (status, json.loads(body)["error"]["type"]) == (413, "RequestTooLargeError")


def test_a_body_without_an_end_ends_the_connection(server: ServerProcess):
    head = http_post("/v1/completions", b"", **AUTHORIZATION).replace(
        b"Content-Length: 0", b"Transfer-Encoding: chunked"
    )
    chunk = b"100000\r\n" + b" " * MIB + b"\r\n"
    with RawClient(server.address) as client:
        client.send(head)
        num_sent = client.send_until_refused(chunk, at_most=1000)
    assert num_sent < 300, "the server reads eight times 32 MiB, and no more"


@pytest.mark.parametrize(
    "value", [None, "", "Bearer", "Bearer ", "Bearer key", "Bearer key-one2", "Basic key-one", "key-one"]
)
def test_wrong_keys(server: ServerProcess, value: str | None):
    headers = {} if value is None else {"Authorization": value}
    assert [server.status(path, headers) for path in ("/v1/models", "/openapi.json", "/load", "/none")] == [401] * 4
    assert [server.status(path, headers) for path in ("/health", "/ready", "/version", "/metrics")] == [200] * 4
    data = http_post("/v1/completions", LONG, **headers)
    assert answer(server, data) == (401, {"error": "Unauthorized"})


@pytest.mark.parametrize("key", KEYS)
def test_each_key_opens(server: ServerProcess, key: str):
    assert server.status("/v1/models", {"Authorization": f"Bearer {key}"}) == 200


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": [7] * 128}, "maximum context length is 128 tokens, and the prompt has 128"),
        ({"prompt": [7] * 100_000}, "maximum context length is 128 tokens"),
        ({"prompt": "word " * 1000}, "maximum context length is 128 tokens"),
        ({"prompt": [7] * 100, "max_tokens": 129}, "max_tokens must be at most 128, the model's context length"),
        ({"prompt": "a", "max_tokens": 10**9}, "max_tokens must be at most 128"),
        ({"prompt": "a", "n": 10**9}, "n times the number of prompts must be at most 16384"),
        ({"prompt": "a", "stream": True, "max_tokens": 10**6}, "max_tokens must be at most 128"),
    ],
)
def test_requests_that_are_too_large(server: ServerProcess, fields: dict[str, Any], message: str):
    status, body = answer(server, http_post("/v1/completions", fields, **AUTHORIZATION))
    assert (status, message in body["error"]["message"]) == (400, True), body


def test_an_answer_ends_with_the_context(server: ServerProcess):
    body = {"prompt": [7] * 100, "max_tokens": 100, "ignore_eos": True}
    completion = post(server, "/v1/completions", body)
    assert completion["usage"]["completion_tokens"] == 28
    assert completion["choices"][0]["finish_reason"] == "length"
