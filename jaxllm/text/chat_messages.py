"""Checks chat messages and brings them to the form that a chat template reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jaxllm.errors import ValidationError

ContentFormat = Literal["string", "openai"]
"""Whether a template reads a message's content as one string, or as a list of parts."""

_TEXT_PART_KEYS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}


def prepare_messages(
    messages: Sequence[Mapping[str, Any]], content_format: ContentFormat, *, keeps_strings: bool = False
) -> list[dict[str, Any]]:
    """Checked copies of the messages, contents in the given format, tool call arguments as objects. `keeps_strings`
    leaves a content that came as a string as it is."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise _wrong(f"messages must be a list of messages, got {type(messages).__name__}")
    if not messages:
        raise _wrong("messages must hold at least one message, got an empty list")
    prepared = [_prepare(message, f"messages[{index}]") for index, message in enumerate(messages)]
    for message in prepared:
        content = message["content"]
        if content is not None and not (keeps_strings and isinstance(content, str)):
            message["content"] = _format_content(content, content_format)
    return prepared


def _prepare(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise _wrong(f"{where} must be a dict with role and content, got {type(message).__name__}")
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise _wrong(f"{where}: role must be a name such as 'user' or 'assistant', got {role!r}")
    prepared = dict(message)
    if "tool_calls" in prepared and prepared["tool_calls"] is not None:
        prepared["tool_calls"] = _prepare_tool_calls(prepared["tool_calls"], where)
    content = message.get("content")
    if content is None:
        if role != "assistant":
            raise _wrong(f"{where}: a message of role {role!r} needs content, a string or a list of text parts")
        # Templates add strings; only those that look for None or a missing key would notice.
        prepared["content"] = "" if not prepared.get("tool_calls") else None
        return prepared
    prepared["content"] = _read_content(content, where)
    return prepared


def _read_content(content: Any, where: str) -> str | list[str]:
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and not isinstance(content, bytes):
        return [_part_text(part, f"{where}.content[{index}]") for index, part in enumerate(content)]
    raise _wrong(f"{where}: content must be a string or a list of parts, got {type(content).__name__}")


def _format_content(content: str | list[str], content_format: ContentFormat) -> str | list[dict[str, str]]:
    texts = [content] if isinstance(content, str) else content
    if content_format == "openai":
        return [{"type": "text", "text": text} for text in texts]
    return "\n".join(texts)


def _part_text(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise _wrong(f"{where} must be a dict with type and text, got {type(part).__name__}")
    kind = part.get("type", "text" if "text" in part else None)
    key = _TEXT_PART_KEYS.get(kind) if isinstance(kind, str) else None
    if key is None:
        raise _wrong(f"{where}: expected a part of type 'text', got {kind!r}; this model reads text only")
    text = part.get(key)
    if not isinstance(text, str):
        raise _wrong(f"{where}: {key} must be a string, got {type(text).__name__}")
    return text


def _prepare_tool_calls(tool_calls: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(tool_calls, Sequence) or isinstance(tool_calls, str | bytes):
        raise _wrong(f"{where}: tool_calls must be a list, got {type(tool_calls).__name__}")
    return [_prepare_tool_call(call, f"{where}.tool_calls[{index}]") for index, call in enumerate(tool_calls)]


def _prepare_tool_call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise _wrong(f"{where} must be a dict with function: {{name, arguments}}")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments else {}
        except json.JSONDecodeError as error:
            raise _wrong(f"{where}: arguments must be JSON, got {arguments!r}") from error
    return {**call, "function": {**function, "arguments": {} if arguments is None else arguments}}


def _wrong(message: str) -> ValidationError:
    return ValidationError(message, parameter="messages")
