"""The fate of each field of a request, and a test for it; `python -m tests.server.request_fields` prints them."""

from __future__ import annotations

from pydantic import BaseModel

from jaxllm.server.protocol.chat import ChatRequest
from jaxllm.server.protocol.completions import CompletionRequest
from jaxllm.server.protocol.refusals import refused_fields
from jaxllm.server.protocol.tokenization import DetokenizeRequest, TokenizeRequest
from jaxllm.server.sampling import SAMPLING_FIELDS

_HERE = "tests/server/"
_SAMPLING = _HERE + "test_sampling.py::"
_COMPLETIONS = _HERE + "test_completions.py::"
_CHECKS = _HERE + "test_completion_checks.py::"
_CHAT = _HERE + "test_chat.py::"
_TOKENS = _HERE + "test_tokenization.py::"
_BEAM = _HERE + "test_beam_search.py::"

REFUSED = _HERE + "test_request_fields.py::test_refused_field_is_refused_unless_harmless"
"""Proves every field that carries the mark `Refused`."""

_SHARED: dict[str, str] = {
    **dict.fromkeys(SAMPLING_FIELDS, _SAMPLING + "test_field_becomes_a_sampling_parameter"),
    "model": _CHECKS + "test_unknown_model_is_not_found",
    "stream": _COMPLETIONS + "test_stream_has_the_forms_of_the_api",
    "stream_options": _COMPLETIONS + "test_usage_comes_in_a_chunk_of_its_own",
    "max_tokens": _SAMPLING + "test_lengths_follow_the_rules_of_each_api",
    "prompt_logprobs": _COMPLETIONS + "test_prompt_logprobs_are_objects_by_token_id",
    "truncate_prompt_tokens": _COMPLETIONS + "test_echo_of_a_cut_prompt_is_what_is_left",
    "truncation_side": _COMPLETIONS + "test_echo_of_a_cut_prompt_is_what_is_left",
    "add_special_tokens": _HERE + "test_request_fields.py::test_special_tokens_are_added_as_asked",
    "use_beam_search": _BEAM + "test_beams_become_choices",
    "length_penalty": _SAMPLING + "test_beam_search_takes_its_own_fields",
    "echo": _COMPLETIONS + "test_echo_puts_the_prompt_before_the_text",
    "priority": _CHECKS + "test_priority_header_wins",
    "request_id": _CHECKS + "test_request_id_comes_from_header_or_body",
    "cache_salt": _COMPLETIONS + "test_salt_keeps_cached_prompts_apart",
    "return_token_ids": _COMPLETIONS + "test_token_ids_are_told_on_request",
    "return_tokens_as_token_ids": _COMPLETIONS + "test_tokens_can_be_written_by_their_id",
    "user": _HERE + "test_request_fields.py::test_user_changes_nothing",
}

APPLIED: dict[type[BaseModel], dict[str, str]] = {
    CompletionRequest: {
        **_SHARED,
        "prompt": _COMPLETIONS + "test_prompt_comes_in_four_forms",
        "logprobs": _COMPLETIONS + "test_logprobs_are_told_by_position",
    },
    ChatRequest: {
        **_SHARED,
        "messages": _CHAT + "test_messages_of_all_roles_reach_the_template",
        "max_completion_tokens": _CHAT + "test_recommended_length_is_the_default",
        "logprobs": _CHAT + "test_logprobs_are_told_by_token",
        "top_logprobs": _CHAT + "test_logprobs_are_told_by_token",
        "echo": _CHAT + "test_echo_repeats_the_last_message_of_the_same_role",
        "add_generation_prompt": _CHAT + "test_reply_without_a_new_message_has_the_last_ones_role",
        "continue_final_message": _CHAT + "test_final_message_can_be_continued",
        "documents": _CHAT + "test_documents_and_variables_reach_the_template",
        "chat_template": _CHAT + "test_request_brings_a_template_only_where_the_server_trusts_it",
        "chat_template_kwargs": _CHAT + "test_documents_and_variables_reach_the_template",
        "return_prompt_text": _CHAT + "test_prompt_and_tokens_are_told_on_request",
    },
    TokenizeRequest: {
        "model": _TOKENS + "test_unknown_model_is_not_found",
        "prompt": _TOKENS + "test_text_becomes_tokens_and_text_again",
        "messages": _TOKENS + "test_conversation_becomes_the_tokens_of_its_prompt",
        "add_special_tokens": _HERE + "test_request_fields.py::test_special_tokens_are_added_as_asked",
        "return_token_strs": _TOKENS + "test_spelling_of_tokens_is_told_on_request",
        "add_generation_prompt": _TOKENS + "test_conversation_becomes_the_tokens_of_its_prompt",
        "continue_final_message": _TOKENS + "test_final_message_is_left_open",
        "chat_template": _TOKENS + "test_template_of_a_request_is_used_where_trusted",
        "chat_template_kwargs": _TOKENS + "test_template_of_a_request_is_used_where_trusted",
        "tools": _TOKENS + "test_tools_reach_the_template",
    },
    DetokenizeRequest: {
        "model": _TOKENS + "test_unknown_model_is_not_found",
        "tokens": _TOKENS + "test_text_becomes_tokens_and_text_again",
    },
}
"""The fields that are applied, and a test for each."""


def table() -> str:
    """One line a field: its fate and its test."""
    rows = []
    for model, applied in APPLIED.items():
        rows += [f"{model.__name__:18} {name:30} applied  {test}" for name, test in applied.items()]
        rows += [f"{model.__name__:18} {name:30} refused  {REFUSED}" for name in refused_fields(model)]
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
