"""The encoding of streamed chunks: what stays the same in a stream is encoded once."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from jaxllm.outputs import RequestOutput
from jaxllm.server.protocol.generation import GenerationRequest

encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
"""Compact JSON as text."""


def as_event(text: str) -> bytes:
    """The event whose data is `text`; a lone surrogate becomes its JSON escape."""
    return f"data: {text}\n\n".encode("utf-8", "backslashreplace")


def encode_answer(answer: BaseModel) -> bytes:
    """A whole answer as JSON; a lone surrogate, which a client may have sent, becomes its JSON escape."""
    return encode_json(answer.model_dump()).encode("utf-8", "backslashreplace")


class UsageCounter:
    """Counts the tokens of a stream's prompts and answers."""

    def __init__(self, *, tells_cached: bool) -> None:
        self._tells_cached = tells_cached
        self._prompts: dict[int, tuple[int, int]] = {}
        self._num_completion_tokens = 0

    def add(self, index: int, output: RequestOutput) -> None:
        """Takes in a new output of the prompt with this index; its tokens must be new ones."""
        self._prompts[index] = (len(output.prompt_token_ids), output.num_cached_tokens or 0)
        for completion in output.outputs:
            self._num_completion_tokens += len(completion.token_ids)

    def usage(self) -> dict[str, Any]:
        """The usage object, as of now."""
        num_prompt_tokens = sum(num_tokens for num_tokens, _ in self._prompts.values())
        usage: dict[str, Any] = {
            "prompt_tokens": num_prompt_tokens,
            "completion_tokens": self._num_completion_tokens,
            "total_tokens": num_prompt_tokens + self._num_completion_tokens,
        }
        if self._tells_cached:
            usage["prompt_tokens_details"] = {"cached_tokens": sum(cached for _, cached in self._prompts.values())}
        return usage


class ChunkEncoder:
    """Encodes the chunks of one stream: a head that never changes, one choice, and the usage if it is wanted."""

    def __init__(
        self, head: dict[str, Any], *, usage: UsageCounter, tells_usage_at_end: bool, tells_usage_always: bool
    ) -> None:
        self._head = encode_json(head)[:-1]
        self._usage = usage
        self._tells_usage_at_end = tells_usage_at_end
        self.tells_usage_always = tells_usage_always

    @classmethod
    def make(
        cls, head: dict[str, Any], request: GenerationRequest, *, forces_usage: bool, tells_cached: bool
    ) -> ChunkEncoder:
        """As the request's stream_options want it; a server may force the usage."""
        options = request.stream_options
        return cls(
            head,
            usage=UsageCounter(tells_cached=tells_cached),
            tells_usage_at_end=forces_usage or (options is not None and bool(options.include_usage)),
            tells_usage_always=forces_usage or (options is not None and bool(options.continuous_usage_stats)),
        )

    def count(self, index: int, output: RequestOutput) -> None:
        """Takes an output into the usage, before its chunks are encoded."""
        self._usage.add(index, output)

    def encode(self, choice: str, extra: str = "") -> bytes:
        """The event of a chunk with one choice, given as JSON; `extra` is more JSON for the end of the chunk."""
        usage = f',"usage":{encode_json(self._usage.usage())}' if self.tells_usage_always else ""
        return as_event(f'{self._head},"choices":[{choice}]{extra}{usage}}}')

    def encode_end(self) -> bytes:
        """The event that tells the usage, if it is wanted, else nothing."""
        if not self._tells_usage_at_end:
            return b""
        return as_event(f'{self._head},"choices":[],"usage":{encode_json(self._usage.usage())}}}')


def ending(finish_reason: str | None, stop_reason: int | str | None) -> str:
    """The members of a choice that say whether and why it ended."""
    if finish_reason is None:
        return '"finish_reason":null'
    return f'"finish_reason":"{finish_reason}","stop_reason":{encode_json(stop_reason)}'
