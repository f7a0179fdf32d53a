"""Simon Willison's command `llm`, unchanged, with a real server behind its base URL."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from openai import OpenAI

from tests.e2e.server_process import ServerProcess

QUESTION = "What is the capital of France?"
MODELS_FILE = """\
- model_id: local
  model_name: smollm2-135m
  api_base: {base_url}
  api_key_name: local
- model_id: local-completion
  model_name: smollm2-135m
  api_base: {base_url}
  api_key_name: local
  completion: true
"""


@pytest.fixture(scope="module")
def user_path(smollm2_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llm")
    models = MODELS_FILE.format(base_url=smollm2_server.base_url)
    (folder / "extra-openai-models.yaml").write_text(models)
    (folder / "keys.json").write_text('{"local": "EMPTY"}')
    return folder


def llm(user_path: Path, *arguments: str) -> str:
    """Standard output of the command; no plugins, since those of embedded models want other engines."""
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "llm", *arguments],
        env=os.environ | {"LLM_USER_PATH": str(user_path), "LLM_LOAD_PLUGINS": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_lists_the_model(user_path):
    assert "local" in llm(user_path, "models")


@pytest.mark.parametrize("flags", [(), ("--no-stream",)], ids=["streaming", "at once"])
def test_answers_a_prompt(user_path, flags):
    assert (
        llm(user_path, "-m", "local", "-o", "temperature", "0", *flags, QUESTION) == "The capital of France is Paris.\n"
    )


def test_answers_a_second_turn(user_path, smollm2_server):
    options = ("-o", "temperature", "0", "-o", "max_tokens", "12")
    first = llm(user_path, "-m", "local", *options, "-s", "You are brief.", QUESTION)
    second = llm(user_path, "-c", *options, "And of Italy?")
    conversation = [
        ("system", "You are brief."),
        ("user", QUESTION),
        ("assistant", first[:-1]),
        ("user", "And of Italy?"),
    ]
    messages = [{"role": role, "content": content} for role, content in conversation]
    with OpenAI(base_url=smollm2_server.base_url, api_key="EMPTY") as client:
        answer = client.chat.completions.create(model="smollm2-135m", messages=messages, temperature=0, max_tokens=12)
    assert second == f"{answer.choices[0].message.content}\n"


def test_completes_a_text(user_path):
    options = ("-o", "temperature", "0", "-o", "max_tokens", "7")
    assert "city of breathtaking beauty" in llm(user_path, "-m", "local-completion", *options, "San Francisco is a")
