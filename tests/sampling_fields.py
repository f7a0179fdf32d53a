"""The fate of each SamplingParams field, and the tests that prove it; printed by `python -m tests.sampling_fields`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_GENERATE = "tests/test_llm_generate.py::"
_STREAM = "tests/test_llm_stream.py::"
_PARAMS = "tests/test_sampling_params.py::"
_ENGINE = "tests/engine/test_engine.py::"
_DRAW = "tests/runner/test_sampler_distribution.py::"
_EDITED = "tests/test_llm_tiny_model.py::test_draws_the_likeliest_token_after_the_edits"
_FILTERED = _DRAW + "test_draws_follow_the_filtered_distribution"


@dataclass(frozen=True)
class Field:
    """A field's fate and its proof."""

    status: Literal["applied", "rejected"]
    """Rejected: any value but the default is an error."""
    tests: tuple[str, ...]
    """Ids of test functions, `path::name`."""


def _applied(*tests: str) -> Field:
    return Field("applied", tests)


_NOT_YET = Field("rejected", (_PARAMS + "test_unsupported_field_is_refused_unless_default",))
_LEGACY = Field(
    "rejected",
    (
        _PARAMS + "test_legacy_field_that_would_change_results_is_refused",
        _PARAMS + "test_harmless_legacy_field_warns_at_the_caller",
    ),
)

FIELDS: dict[str, Field] = {
    "n": _applied(_GENERATE + "test_several_completions_are_ordered_and_draw_apart"),
    "temperature": _applied(_FILTERED),
    "top_k": _applied(_FILTERED),
    "top_p": _applied(_FILTERED),
    "min_p": _applied(_FILTERED),
    "presence_penalty": _applied(_EDITED),
    "frequency_penalty": _applied(_EDITED),
    "repetition_penalty": _applied(_EDITED),
    "logit_bias": _applied(_EDITED),
    "allowed_token_ids": _applied(_EDITED),
    "bad_words": _applied(_GENERATE + "test_bad_words_reach_the_engine_tokenised"),
    "seed": _applied(
        _GENERATE + "test_several_completions_are_ordered_and_draw_apart",
        _DRAW + "test_same_seed_and_position_draw_the_same_token_whatever_the_batch",
    ),
    "stop": _applied(_GENERATE + "test_stop_string_cuts_the_text"),
    "stop_token_ids": _applied(_GENERATE + "test_stop_token_stays_in_the_ids"),
    "include_stop_str_in_output": _applied(
        _GENERATE + "test_stop_string_cuts_the_text", _GENERATE + "test_stop_token_stays_in_the_ids"
    ),
    "ignore_eos": _applied(_GENERATE + "test_ignore_eos_goes_on"),
    "max_tokens": _applied(
        _GENERATE + "test_length_ends", _GENERATE + "test_max_tokens_none_goes_to_the_models_length"
    ),
    "min_tokens": _applied(
        _GENERATE + "test_min_tokens_holds_eos_back",
        _GENERATE + "test_stop_string_is_not_looked_for_below_min_tokens",
        _ENGINE + "test_min_tokens_holds_stops_back",
    ),
    "logprobs": _applied(_GENERATE + "test_logprobs_hold_the_drawn_token_first", _GENERATE + "test_number_of_logprobs"),
    "prompt_logprobs": _applied(_GENERATE + "test_prompt_logprobs_start_with_none"),
    "detokenize": _applied(_GENERATE + "test_detokenize_false_leaves_the_text_empty"),
    "skip_special_tokens": _applied(_GENERATE + "test_special_tokens_in_the_text"),
    "spaces_between_special_tokens": _applied(
        "tests/text/test_tokenizer.py::test_spaces_of_a_joining_decoder_can_be_kept_from_special_tokens"
    ),
    "output_kind": _applied(
        _STREAM + "test_cumulative_outputs_grow",
        _STREAM + "test_delta_outputs_add_up",
        _STREAM + "test_final_only_gives_each_prompt_once_when_it_ends",
    ),
    "stream_interval": _applied(_STREAM + "test_stream_interval_gathers_tokens"),
    "skip_reading_prefix_cache": _applied(_GENERATE + "test_prefix_cache_is_not_read_where_asked"),
    "truncate_prompt_tokens": _applied(_GENERATE + "test_params_can_truncate"),
    "skip_clone": _applied(_GENERATE + "test_given_params_are_not_changed"),
    "watermarking": _NOT_YET,
    "prompt_logprob_token_ids": _NOT_YET,
    "prompt_logprob_start": _NOT_YET,
    "logprob_token_ids": _NOT_YET,
    "flat_logprobs": _NOT_YET,
    "structured_outputs": _NOT_YET,
    "extra_args": _NOT_YET,
    "thinking_token_budget": _NOT_YET,
    "repetition_detection": _NOT_YET,
    "routed_experts_prompt_start": _NOT_YET,
    "trace_decode_token_ids": _NOT_YET,
    "best_of": _LEGACY,
    "use_beam_search": _LEGACY,
    "early_stopping": _LEGACY,
    "logits_processors": _LEGACY,
    "guided_decoding": Field("rejected", (_PARAMS + "test_legacy_field_that_would_change_results_is_refused",)),
}


def table() -> str:
    """One line a field: its fate and its tests."""
    rows = [f"{name:30} {field.status:9} {', '.join(field.tests)}" for name, field in FIELDS.items()]
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
