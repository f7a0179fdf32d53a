"""Names that older vLLM releases accepted: mapped with a DeprecationWarning, or refused with the way out."""

from __future__ import annotations

import warnings
from typing import Any

from jaxllm.errors import ValidationError


def warn_deprecated(message: str) -> None:
    """A DeprecationWarning; the caller's own frame lies too deep in dataclass code to be worth pointing at."""
    warnings.warn(message, DeprecationWarning, stacklevel=5)


def check_legacy_sampling(
    *,
    n: Any,
    best_of: Any,
    use_beam_search: Any,
    early_stopping: Any,
    logits_processors: Any,
    guided_decoding: Any,
    truncate_prompt_tokens: Any,
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
    if truncate_prompt_tokens is not None:
        warn_deprecated("SamplingParams.truncate_prompt_tokens is deprecated: pass it in tokenization_kwargs")


def _allow_only(name: str, value: Any, is_harmless: bool, way_out: str) -> None:
    if value is None:
        return
    if not is_harmless:
        raise ValidationError(f"{name} is no longer supported, got {value!r}: {way_out}", parameter=name)
    warn_deprecated(f"SamplingParams.{name} is deprecated and changes nothing here")
