"""How one beam search goes, when it ends, and what it returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from jaxllm.errors import ValidationError
from jaxllm.sampling_checks import GREEDY_EPSILON, check_in_vocabulary, check_token_ids
from jaxllm.validation import check_bool, check_float, check_int


@dataclass(frozen=True)
class BeamSearchParams:
    """One beam search's parameters, checked and normalised at construction.

    Each step, every live beam proposes its 2 * beam_width likeliest tokens, scored by the sum of log-probabilities of
    all that the beam has generated. A proposed EOS ends a beam; of the others the best `beam_width` live on. The search
    goes on for `max_tokens` tokens or up to the model's length, and ends earlier only when no beam is left. Then all
    beams, ended and live, compare by that sum / generated tokens ** length_penalty. These are vLLM's rules.

    transformers (`generate(num_beams=...)`) finds the same beams with the same scores where no EOS comes in. With EOS
    it differs: it proposes tokens from all beams together, an EOS that is not among the best `num_beams` proposals ends
    nothing, and it stops when `early_stopping` says so.
    """

    beam_width: int
    """Beams that live on after each token, and results; at least 1, and at most half of the engine's max_logprobs."""
    max_tokens: int
    """Longest output."""
    _: KW_ONLY
    ignore_eos: bool = False
    """Treat EOS, the tokenizer's and those of generation_config, like any other token."""
    temperature: float = 0.0
    """Divides the logits; 0 (below 1e-5) leaves them as they are, like 1. At most 2."""
    length_penalty: float = 1.0
    """Above 0 favours long results, below 0 short ones."""
    include_stop_str_in_output: bool = False
    """Keep the text of the EOS token that ended a result."""
    structured_outputs: Any = None
    """Not supported yet."""
    skip_special_tokens: bool = True
    """Leave special tokens out of the texts."""
    watermarking: Any = None
    """Not supported yet."""
    allowed_token_ids: Sequence[int] | None = None
    """Propose these tokens only; their log-probabilities are those of the whole vocabulary."""

    def __post_init__(self) -> None:
        for name in ("structured_outputs", "watermarking"):
            if getattr(self, name) is not None:
                raise ValidationError(
                    f"{name} is not supported yet in a beam search: leave it at None, got {getattr(self, name)!r}",
                    parameter=name,
                )
        for name, value in self._checked().items():
            object.__setattr__(self, name, value)

    def clone(self, **changes: Any) -> BeamSearchParams:
        """A copy, with some fields changed and everything checked again."""
        return dataclasses.replace(self, **changes)

    @property
    def logits_divisor(self) -> float:
        """What the temperature comes to."""
        return 1.0 if self.temperature < GREEDY_EPSILON else self.temperature

    def verify(self, *, vocab_size: int, max_logprobs: int = 20) -> None:
        """Checks what depends on the model and the engine; `max_logprobs` -1 means no limit."""
        check_in_vocabulary("allowed_token_ids", self.allowed_token_ids or (), vocab_size)
        if max_logprobs != -1 and 2 * self.beam_width > max_logprobs:
            raise ValidationError(
                f"beam_width must be at most {max_logprobs // 2}, half of max_logprobs, which this engine sets to "
                f"{max_logprobs}, got {self.beam_width}; raise max_logprobs to {2 * self.beam_width} to allow it",
                parameter="beam_width",
            )

    def _checked(self) -> dict[str, Any]:
        allowed = self.allowed_token_ids
        if allowed is not None:
            allowed = check_token_ids("allowed_token_ids", allowed)
            if not allowed:
                raise ValidationError(
                    "allowed_token_ids must hold at least one token id, got none", parameter="allowed_token_ids"
                )
        flags = ("ignore_eos", "include_stop_str_in_output", "skip_special_tokens")
        return {name: check_bool(name, getattr(self, name)) for name in flags} | {
            "beam_width": check_int("beam_width", self.beam_width, low=1),
            "max_tokens": check_int("max_tokens", self.max_tokens, low=1),
            "temperature": check_float("temperature", self.temperature, low=0.0, high=2.0),
            "length_penalty": check_float("length_penalty", self.length_penalty),
            "allowed_token_ids": allowed,
        }
