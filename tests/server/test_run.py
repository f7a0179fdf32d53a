"""Servers as processes: how they start, end, and tell it by their exit status."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.helpers import needs_glassllm
from tests.server.helpers import joined_text, last_choice, read_events
from tests.server.processes import ROOT, ServerProcess, scripted_server

GLASSLLM = (
    *("-m", "jaxllm", "serve", "glassllm-en", "--host", "127.0.0.1", "--port", "0", "--device", "cpu"),
    *("--dtype", "float32", "--max-num-seqs", "8", "--max-num-batched-tokens", "64", "--no-use-tqdm-on-load"),
)
TEMPLATE = "./examples/template_chatml.jinja"
LONG = {"prompt": "hi", "max_tokens": 1000, "min_tokens": 1000, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def glassllm() -> Iterator[ServerProcess]:
    """The real command over a small real model."""
    with ServerProcess(*GLASSLLM, "--api-key", "secret", "--public-metrics", "--chat-template", TEMPLATE) as server:
        server.wait_until_serving()
        yield server


class Streaming(threading.Thread):
    """A client that reads one stream to its end."""

    def __init__(self, server: ServerProcess, **fields: object) -> None:
        super().__init__()
        self._client = server.client()
        self._fields = fields
        self.has_begun = threading.Event()
        self.events: list[Any] = []
        self.error: httpx.HTTPError | None = None
        self.start()
        assert self.has_begun.wait(60)

    def run(self) -> None:
        with self._client as client:
            try:
                with client.stream("POST", "/v1/completions", json={**LONG, **self._fields}) as response:
                    content = b""
                    for part in response.iter_bytes():
                        content += part
                        self.has_begun.set()
                    whole = httpx.Response(
                        response.status_code, headers={"content-type": "text/event-stream"}, content=content
                    )
                    self.events = read_events(whole)
            except httpx.HTTPError as error:
                self.error = error
                self.has_begun.set()


@needs_glassllm
def test_start_tells_what_is_served_and_how(glassllm) -> None:
    text = glassllm.output
    for expected in (
        "Route: /v1/completions (POST)",
        "Route: /health (GET)",
        "Sampling where requests say nothing: temperature 1.0, nothing from the model's generation_config",
        f"Serving glassllm-en on {glassllm.address}",
    ):
        assert expected in text
    assert "secret" not in text


@needs_glassllm
def test_command_serves_a_real_model(glassllm) -> None:
    with glassllm.client(headers={"Authorization": "Bearer secret"}) as client:
        assert client.get("/ready").status_code == 200
        body = {"prompt": "Alice was", "temperature": 0, "max_tokens": 8}
        text = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
        chunks = read_events(client.post("/v1/completions", json={**body, "stream": True}))
        assert joined_text(chunks) == text != ""


@needs_glassllm
def test_key_from_the_command_line_is_asked_for(glassllm) -> None:
    with glassllm.client() as client:
        assert client.get("/v1/models").status_code == 401
        assert client.get("/metrics").status_code == 200


@needs_glassllm
def test_nothing_compiles_while_serving(glassllm) -> None:
    with glassllm.client(headers={"Authorization": "Bearer secret"}) as client:
        for prompt in ("a", ["Alice"] * 5):
            assert client.post("/v1/completions", json={"prompt": prompt, "n": 2, "logprobs": 3}).status_code == 200
        counter = 'jaxllm:compiles_after_ready_total{engine="0",model_name="glassllm-en"} 0.0'
        assert counter in client.get("/metrics").text


@needs_glassllm
def test_idle_server_uses_no_processor_time(glassllm) -> None:
    with glassllm.client(headers={"Authorization": "Bearer secret"}) as client:
        assert client.post("/v1/completions", json={"prompt": "Alice"}).status_code == 200
    time.sleep(0.5)
    before = glassllm.cpu_seconds
    time.sleep(2)
    assert glassllm.cpu_seconds - before <= 0.05


@needs_glassllm
def test_template_from_a_file_renders_chats(glassllm) -> None:
    with glassllm.client(headers={"Authorization": "Bearer secret"}) as client:
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "return_prompt_text": True}
        prompt = client.post("/v1/chat/completions", json=body).json()["prompt_text"]
    assert prompt == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@needs_glassllm
@pytest.mark.parametrize(
    ("example", "last_line"),
    [
        (["examples/openai_completion_client.py"], "Usage: CompletionUsage("),
        (["examples/openai_completion_client.py", "--stream"], ""),
        (["examples/openai_chat_client.py", "--max-tokens", "8"], "Usage: CompletionUsage("),
    ],
)
def test_example_client_gets_its_answer(glassllm, example, last_line) -> None:
    environment = os.environ | {"OPENAI_API_KEY": "secret", "NO_PROXY": "127.0.0.1"}
    finished = subprocess.run(
        [sys.executable, *example, "--base-url", f"{glassllm.address}/v1"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    first, *_, last = finished.stdout.splitlines()
    assert first == "Model: glassllm-en"
    assert last.startswith(last_line)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_lets_requests_finish_and_takes_no_more(number) -> None:
    with scripted_server("slow", shutdown_timeout=60) as server:
        server.wait_until_serving()
        with server.client() as client:
            assert client.get("/ready").status_code == 200
            reader = Streaming(server, max_tokens=100, min_tokens=100)
            server.signal(number)
            while client.get("/ready").status_code == 200:
                time.sleep(0.01)
            assert client.get("/health").status_code == 200
            refused = client.post("/v1/completions", json={"prompt": "hi"})
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        reader.join(60)
        assert last_choice(reader.events)["finish_reason"] == "length"
        assert server.wait() == 0


def test_request_that_outlasts_the_shutdown_is_aborted() -> None:
    with scripted_server("slow", shutdown_timeout=0) as server:
        server.wait_until_serving()
        reader = Streaming(server)
        server.signal(signal.SIGTERM)
        reader.join(60)
        assert last_choice(reader.events)["finish_reason"] == "abort"
        assert server.wait() == 0


def test_second_signal_exits_at_once() -> None:
    with scripted_server("slow", shutdown_timeout=600) as server:
        server.wait_until_serving()
        reader = Streaming(server)
        server.signal(signal.SIGTERM)
        with server.client() as client:
            while client.get("/ready").status_code == 200:
                time.sleep(0.01)
        server.signal(signal.SIGTERM)
        assert server.wait() == 128 + signal.SIGTERM
        reader.join(60)
        assert isinstance(reader.error, httpx.RemoteProtocolError)


def test_signal_while_the_model_loads_ends_the_start() -> None:
    with scripted_server("loading") as server:
        assert server.wait() == 128 + signal.SIGTERM


def test_engines_death_ends_the_server_with_a_status() -> None:
    with scripted_server("dying") as server:
        server.wait_until_serving()
        with server.client() as client:
            response = client.post("/v1/completions", json={"prompt": "hi"})
            assert (response.status_code, response.json()["error"]["type"]) == (500, "InternalServerError")
            assert client.get("/health").status_code == 503
        assert server.wait() == 1
        assert "The engine is dead: the server ends in 2 s" in server.output


def test_server_stays_up_with_a_dead_engine_where_asked() -> None:
    with scripted_server("dying", keep_alive_on_engine_death=True) as server:
        server.wait_until_serving()
        with server.client() as client:
            for _ in range(2):
                assert client.post("/v1/completions", json={"prompt": "hi"}).status_code == 500
            assert client.get("/health").status_code == 503
        server.signal(signal.SIGTERM)
        assert server.wait() == 1


def test_taken_port_ends_the_start_before_the_model_loads() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with ServerProcess("-m", "jaxllm", "serve", "/nowhere", "--host", "127.0.0.1", "--port", str(port)) as server:
            assert server.wait() == 1
        assert f"can't listen on 127.0.0.1 port {port}" in server.output


def test_unix_socket_is_served(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with scripted_server("slow", uds=str(path)) as server:
        server.wait_until_serving()
        assert server.address == f"http+unix://{path}"
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://server") as client:
            assert client.get("/health").status_code == 200
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_certificate_makes_it_https(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    with scripted_server("slow", ssl_keyfile=str(key), ssl_certfile=str(certificate)) as server:
        server.wait_until_serving()
        assert server.address.startswith("https://127.0.0.1:")
        with server.client(verify=False) as client:
            assert client.get("/health").status_code == 200
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_wrong_certificate_ends_the_start(tmp_path: Path) -> None:
    with scripted_server("slow", ssl_certfile=str(tmp_path / "none.pem")) as server:
        assert server.wait() == 1
        assert "ssl_certfile, ssl_keyfile, ssl_ca_certs and ssl_ciphers can't be used together" in server.output
