"""The commands and clients of vLLM's page "Quickstart", against a server process with the embedded model."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest
from openai import OpenAI

from tests.e2e.server_process import ServerProcess
from tests.integration.helpers import needs_smollm2

pytestmark = [needs_smollm2, pytest.mark.slow]

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs the program curl")


@pytest.fixture(scope="module")
def client(smollm2_server):
    with OpenAI(api_key="EMPTY", base_url=smollm2_server.base_url) as client:
        yield client


def curl(*arguments: str) -> Any:
    """The JSON that curl gets."""
    finished = subprocess.run(
        ["curl", "--silent", "--show-error", "--max-time", "60", *arguments], capture_output=True, text=True, check=True
    )
    return json.loads(finished.stdout)


@needs_curl
def test_curl_lists_models(smollm2_server: ServerProcess) -> None:
    listing = curl(f"{smollm2_server.url}/v1/models")
    assert listing["object"] == "list"
    [card] = listing["data"]
    assert (card["id"], card["object"], card["max_model_len"]) == ("smollm2-135m", "model", 512)


@needs_curl
def test_curl_completes(smollm2_server: ServerProcess) -> None:
    body = """{
        "model": "smollm2-135m",
        "prompt": "San Francisco is a",
        "max_tokens": 7,
        "temperature": 0
    }"""
    answer = curl(f"{smollm2_server.url}/v1/completions", "-H", "Content-Type: application/json", "-d", body)
    [choice] = answer["choices"]
    assert answer["object"] == "text_completion"
    assert answer["model"] == "smollm2-135m"
    assert choice["text"].strip()
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 7


@needs_curl
def test_curl_chats(smollm2_server: ServerProcess) -> None:
    body = """{
        "model": "smollm2-135m",
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Who won the world series in 2020?"}
        ]
    }"""
    answer = curl(f"{smollm2_server.url}/v1/chat/completions", "-H", "Content-Type: application/json", "-d", body)
    [choice] = answer["choices"]
    assert answer["object"] == "chat.completion"
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"].strip()
    assert choice["finish_reason"] in ("stop", "length")


def test_openai_completes(client: OpenAI) -> None:
    completion = client.completions.create(model="smollm2-135m", prompt="San Francisco is a")
    assert completion.choices[0].text.strip()
    assert completion.usage is not None
    assert 1 <= completion.usage.completion_tokens <= 16


def test_openai_chats(client: OpenAI) -> None:
    chat_response = client.chat.completions.create(
        model="smollm2-135m",
        messages=[
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Tell me a joke."},
        ],
    )
    assert chat_response.choices[0].message.role == "assistant"
    assert chat_response.choices[0].message.content
    assert chat_response.choices[0].finish_reason in ("stop", "length")
