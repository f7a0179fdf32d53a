"""The options of vLLM's page "Quickstart", on server processes with the smallest model: keys and a template."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI

from tests.e2e.server_process import ServerProcess
from tests.integration.helpers import needs_glassllm

pytestmark = needs_glassllm

LIMITS = ("--max-num-seqs", "8", "--max-num-batched-tokens", "64", "--dtype", "float32")
MESSAGES = [{"role": "user", "content": "Tell me a joke."}]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """With a key by its flag, and a template by a path that is relative, as on the page."""
    options = ("--api-key", "token-abc123", "--chat-template", "./examples/template_chatml.jinja")
    log_path = tmp_path_factory.mktemp("guarded") / "server.log"
    with ServerProcess("glassllm-en", log_path, *LIMITS, *options) as server:
        yield server


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """With a key by vLLM's variable, and no template."""
    log_path = tmp_path_factory.mktemp("plain") / "server.log"
    with ServerProcess("glassllm-en", log_path, *LIMITS, environment={"VLLM_API_KEY": "from-variable"}) as server:
        yield server


def ask(server: ServerProcess, api_key: str) -> list[str]:
    with OpenAI(api_key=api_key, base_url=server.base_url, max_retries=0) as client:
        return [model.id for model in client.models.list()]


def test_the_key_of_the_flag_is_asked_for(guarded: ServerProcess) -> None:
    assert ask(guarded, "token-abc123") == ["glassllm-en"]
    with pytest.raises(openai.AuthenticationError, match="401"):
        ask(guarded, "wrong")


def test_the_key_of_the_variable_is_asked_for(plain: ServerProcess) -> None:
    assert ask(plain, "from-variable") == ["glassllm-en"]
    with pytest.raises(openai.AuthenticationError, match="401"):
        ask(plain, "token-abc123")


def test_health_needs_no_key_and_metrics_do(guarded: ServerProcess) -> None:
    statuses = {path: guarded.status(path) for path in ("/health", "/ready", "/version", "/metrics", "/v1/models")}
    assert statuses == {"/health": 200, "/ready": 200, "/version": 200, "/metrics": 401, "/v1/models": 401}


def test_the_template_of_the_flag_renders_chats(guarded: ServerProcess) -> None:
    with OpenAI(api_key="token-abc123", base_url=guarded.base_url, max_retries=0) as client:
        answer = client.chat.completions.create(
            model="glassllm-en", messages=MESSAGES, max_tokens=4, extra_body={"return_prompt_text": True}
        )
    assert answer.to_dict()["prompt_text"] == "<|im_start|>user\nTell me a joke.<|im_end|>\n<|im_start|>assistant\n"


def test_without_a_template_a_chat_is_refused_with_advice(plain: ServerProcess) -> None:
    with (
        OpenAI(api_key="from-variable", base_url=plain.base_url, max_retries=0) as client,
        pytest.raises(openai.BadRequestError, match=r"no chat template.*--chat-template"),
    ):
        client.chat.completions.create(model="glassllm-en", messages=MESSAGES, max_tokens=4)
