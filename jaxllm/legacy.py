"""Names that older vLLM releases accepted: mapped with a DeprecationWarning, or refused with the way out."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from jaxllm.errors import ValidationError

_PACKAGE = str(Path(__file__).parent)
_GENERATED_CODE = "<string"  # start of the file name of a dataclass's __init__


def warn_deprecated(message: str) -> None:
    """A DeprecationWarning that points at the caller's own line."""
    warnings.warn(message, DeprecationWarning, skip_file_prefixes=(_PACKAGE, _GENERATED_CODE))


def check_legacy_sampling(
    *,
    n: Any,
    best_of: Any,
    use_beam_search: Any,
    early_stopping: Any,
    logits_processors: Any,
    guided_decoding: Any,
) -> None:
    """Lets legacy sampling parameters pass, with a warning, where they change nothing."""
    if guided_decoding is not None:
        raise ValidationError(
            "guided_decoding was replaced by structured_outputs, which is not supported yet",
            parameter="guided_decoding",
        )
    _allow_only(
        "best_of", best_of, best_of is None or best_of == n, f"drawing more than n ({n}) completions is gone; set n"
    )
    _allow_only("use_beam_search", use_beam_search, not use_beam_search, "call beam_search instead")
    _allow_only("early_stopping", early_stopping, not early_stopping, "it belongs to beam search")
    _allow_only(
        "logits_processors", logits_processors, not logits_processors, "use logit_bias, allowed_token_ids or bad_words"
    )


def _allow_only(name: str, value: Any, is_harmless: bool, way_out: str) -> None:
    if value is None:
        return
    if not is_harmless:
        raise ValidationError(f"{name} is no longer supported, got {value!r}: {way_out}", parameter=name)
    warn_deprecated(f"SamplingParams.{name} is deprecated and changes nothing here")


def merge_legacy_prompts(prompts: Any, prompt_token_ids: Any) -> Any:
    """Prompts as they are given today, from the two arguments that older releases had for them."""
    if prompt_token_ids is None:
        if prompts is None:
            raise TypeError("generate() missing 1 required argument: 'prompts'")
        return prompts
    warn_deprecated("prompt_token_ids is deprecated: give token ids as prompts")
    if prompts is not None:
        raise ValidationError("give either prompts or prompt_token_ids, got both", parameter="prompt_token_ids")
    return prompt_token_ids


def merge_legacy_positions(positional: tuple[Any, ...], keywords: dict[str, Any]) -> None:
    """Puts the tokenizer, which older releases took as the second argument, among the keywords."""
    if not positional:
        return
    if len(positional) > 1:
        raise TypeError(f"takes the model, then keyword arguments; got {len(positional)} more positional arguments")
    if "tokenizer" in keywords:
        raise TypeError("got multiple values for argument 'tokenizer'")
    warn_deprecated("the tokenizer as a second positional argument is deprecated: write tokenizer=...")
    keywords["tokenizer"] = positional[0]
