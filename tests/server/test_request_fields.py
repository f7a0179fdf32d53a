"""No field of a request is ever ignored: it is applied, with a test that shows it, or refused by name."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from jaxllm.errors import ValidationError
from jaxllm.server.protocol.chat import ChatRequest
from jaxllm.server.protocol.completions import CompletionRequest
from jaxllm.server.protocol.refusals import refuse_unsupported, refused_fields
from tests.frontend.helpers import EOS, TOKENIZER, ids
from tests.server.helpers import chat_body
from tests.server.request_fields import APPLIED, REFUSED

ROOT = Path(__file__).resolve().parents[2]
BODIES: dict[Any, dict[str, Any]] = {CompletionRequest: {"prompt": "hi"}, ChatRequest: chat_body("hi")}
ASKING: dict[str, Any] = {
    "response_format": {"type": "json_object"},
    "best_of": 2,
    "tool_choice": "auto",
    "parallel_tool_calls": "maybe",
    "include_reasoning": False,
}
"""Values that ask for something, where "x" would not do."""


@pytest.mark.parametrize("model", APPLIED)
def test_each_field_is_either_applied_or_refused(model) -> None:
    applied, refused = set(APPLIED[model]), set(refused_fields(model))
    assert applied & refused == set()
    assert applied | refused == set(model.model_fields)


def test_tests_that_prove_a_field_exist() -> None:
    named = {test for applied in APPLIED.values() for test in applied.values()} | {REFUSED}
    for path in {test.partition("::")[0] for test in named}:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert {test.partition("::")[2] for test in named if test.startswith(path)} <= functions


@pytest.mark.parametrize(("model", "name"), [(model, name) for model in BODIES for name in refused_fields(model)])
def test_refused_field_is_refused_unless_harmless(model, name) -> None:
    mark = refused_fields(model)[name]
    with pytest.raises(ValidationError, match=f"^{name} is not supported yet") as caught:
        refuse_unsupported(model(**BODIES[model], **{name: ASKING.get(name, "x")}))
    assert caught.value.parameter == name
    for harmless in mark.harmless:
        refuse_unsupported(model(**BODIES[model], **{name: harmless}))


def test_one_is_not_true() -> None:
    with pytest.raises(ValidationError, match="include_reasoning is not supported yet"):
        refuse_unsupported(ChatRequest(**chat_body("hi"), include_reasoning=1))


def test_empty_list_of_tools_is_refused(client) -> None:
    message, parameter = client.refusal("/v1/chat/completions", chat_body("hi", tools=[]))
    assert (message, parameter) == ("tools is not supported yet (tool calls), got [] (list)", "tools")


def test_user_changes_nothing(client) -> None:
    assert client.complete("hi", user="me")["choices"] == client.complete("hi")["choices"]


def test_special_tokens_are_added_as_asked(start, monkeypatch) -> None:
    client = start()
    adding = TemplateProcessing(single="<eos> $A", special_tokens=[("<eos>", EOS)])
    monkeypatch.setattr(TOKENIZER._rust, "post_processor", adding)
    try:
        with_special, without = [EOS, *ids("hi")], ids("hi")
        for fields, expected in (({}, with_special), ({"add_special_tokens": False}, without)):
            body = client.complete("hi", max_tokens=1, return_token_ids=True, **fields)
            assert body["choices"][0]["prompt_token_ids"] == expected
            assert client.post("/tokenize", {"prompt": "hi", **fields}).json()["tokens"] == expected
        for fields, has_special in (({}, False), ({"add_special_tokens": True}, True)):
            body = client.chat("hi", max_tokens=1, return_token_ids=True, **fields)
            assert (body["prompt_token_ids"][0] == EOS) is has_special
            tokens = client.post("/tokenize", chat_body("hi", **fields)).json()["tokens"]
            assert (tokens[0] == EOS) is has_special
    finally:
        monkeypatch.undo()
