"""Arguments of a call that stand for one prompt or for many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxllm.beam_search_params import BeamSearchParams
from jaxllm.errors import ValidationError
from jaxllm.sampling_params import SamplingParams
from jaxllm.validation import check_bool, describe, fail

AnyParams = SamplingParams | BeamSearchParams
"""What calls take that hand out nothing before the end."""


def check_params(name: str, value: Any) -> SamplingParams:
    """A SamplingParams."""
    if isinstance(value, BeamSearchParams):
        raise fail(name, "a SamplingParams where outputs are streamed, as a beam search has none on the way", value)
    if not isinstance(value, SamplingParams):
        raise fail(name, "a SamplingParams", value)
    return value


def check_any_params(name: str, value: Any) -> AnyParams:
    """A SamplingParams, or a BeamSearchParams."""
    return value if isinstance(value, BeamSearchParams) else check_params(name, value)


def check_search_params(name: str, value: Any) -> BeamSearchParams:
    """A BeamSearchParams."""
    if not isinstance(value, BeamSearchParams):
        raise fail(name, "a BeamSearchParams", value)
    return value


def per_prompt[Item](name: str, value: Any, count: int, check: Callable[[str, Any], Item]) -> list[Item]:
    """One value for all prompts, or one for each."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return [check(name, value)] * count
    if len(value) != count:
        raise ValidationError(
            f"{name} must be one value or one per prompt: got {len(value)} for {count} prompts", parameter=name
        )
    return [check(f"{name}[{index}]", item) for index, item in enumerate(value)]


def as_conversations(messages: Any) -> list[Any]:
    """A list of conversations, each a list of messages, from one conversation or many."""
    expected = "a list of messages (mappings), or a list of such lists"
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise fail("messages", expected, messages)
    if not messages:
        return []
    conversations = [messages] if isinstance(messages[0], Mapping) else list(messages)
    for conversation in conversations:
        is_list = isinstance(conversation, Sequence) and not isinstance(conversation, str)
        if not is_list or not conversation or not all(isinstance(message, Mapping) for message in conversation):
            raise fail("messages", expected, conversation)
    return conversations


def refuse_unsupported(**arguments: Any) -> None:
    """Arguments of vLLM that jaxllm can't apply yet must be None."""
    for name, value in arguments.items():
        if value is not None:
            raise ValidationError(
                f"{name} is not supported yet: leave it at None, got {describe(value)}", parameter=name
            )


def check_reset_options(reset_running_requests: Any, reset_connector: Any) -> bool:
    """Whether `reset_prefix_cache` shall take the pages of running requests."""
    if check_bool("reset_connector", reset_connector):
        raise ValidationError("reset_connector must be False: there is no connector", parameter="reset_connector")
    return check_bool("reset_running_requests", reset_running_requests)
