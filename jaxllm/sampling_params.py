"""How one request draws its tokens, when it ends, and what it returns."""

from __future__ import annotations

import dataclasses
import enum
import logging
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass
from typing import Any

from jaxllm.beam_search_params import BeamSearchParams as BeamSearchParams  # where users of vLLM import it from
from jaxllm.errors import ValidationError
from jaxllm.legacy import check_legacy_sampling
from jaxllm.sampling_checks import (
    GREEDY_EPSILON,
    check_in_vocabulary,
    check_logit_bias,
    check_logprobs,
    check_num_logprobs,
    check_token_ids,
    check_truncation,
)
from jaxllm.validation import check_bool, check_float, check_int, check_list, check_str, fail

logger = logging.getLogger(__name__)

MIN_TEMPERATURE = 1e-2
"""Positive temperatures below this are raised to it: the scaled logits would overflow."""
MAX_N = 16384
MAX_INT32 = 2**31 - 1
MAX_LOGIT_EDITS = 512
"""Per request, the sum of logit_bias entries, tokenised bad words and, with min_tokens, the ids that end it."""
MAX_BAD_WORDS = 128
"""Per request, counted after tokenisation: one word gives one entry or two (with and without leading space)."""
MAX_LOGIT_BIAS = 100.0
"""`from_optional` clamps every bias to plus or minus this."""

UNSUPPORTED_DEFAULTS: dict[str, Any] = {
    "watermarking": None,
    "prompt_logprob_token_ids": None,
    "prompt_logprob_start": None,
    "logprob_token_ids": None,
    "flat_logprobs": False,
    "structured_outputs": None,
    "extra_args": None,
    "thinking_token_budget": None,
    "repetition_detection": None,
    "routed_experts_prompt_start": 0,
    "trace_decode_token_ids": None,
}
"""Fields that jaxllm knows and can't apply yet: any other value than this is an error."""


class RequestOutputKind(enum.Enum):
    """What each output of a streamed request holds."""

    CUMULATIVE = 0
    """Everything so far."""
    DELTA = 1
    """What came since the last output."""
    FINAL_ONLY = 2
    """Nothing until the request is finished."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """One request's parameters, checked and normalised at construction.

    They can't be changed afterwards: `clone(max_tokens=5)` gives a changed copy.
    """

    n: int = 1
    """Completions of the same prompt, each drawn on its own; greedy allows 1 only."""
    presence_penalty: float = 0.0
    """Subtracted from the logit of every token that was generated already; -2 to 2."""
    frequency_penalty: float = 0.0
    """Subtracted once per occurrence among the generated tokens; -2 to 2."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens in the prompt or generated; above 0."""
    temperature: float = 1.0
    """0 to 2. Below 1e-5 is greedy, which also turns top_p, top_k and min_p off."""
    watermarking: Any = None
    """Not supported yet."""
    top_p: float = 1.0
    """Keep the most likely tokens whose probabilities reach this sum; above 0, up to 1."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 (or -1, which becomes 0) keeps all."""
    min_p: float = 0.0
    """Keep tokens at least this likely, relative to the most likely one; 0 to 1."""
    seed: int | None = None
    """Makes the draws repeatable whatever else is in the batch; None (or -1, which becomes None) draws a seed."""
    stop: Sequence[str] = dataclasses.field(default_factory=list)
    """Strings that end the text, which is cut before the match; one string becomes a list of one."""
    stop_token_ids: Sequence[int] = dataclasses.field(default_factory=list)
    """Tokens that end the request, besides EOS; the matched one stays in token_ids and leaves the text."""
    ignore_eos: bool = False
    """Go on after EOS, the tokenizer's and those of generation_config."""
    max_tokens: int | None = 16
    """Longest output; None means up to the model's length."""
    min_tokens: int = 0
    """EOS and stop tokens are banned, and stop strings not looked for, before this many tokens."""
    logprobs: int | None = None
    """Log-probabilities of this many most likely tokens and of the drawn one; -1 is the whole vocabulary."""
    prompt_logprobs: int | None = None
    """The same for the prompt's tokens; such a request reads nothing from the prefix cache."""
    prompt_logprob_token_ids: Any = None
    """Not supported yet."""
    prompt_logprob_start: Any = None
    """Not supported yet."""
    logprob_token_ids: Any = None
    """Not supported yet."""
    flat_logprobs: bool = False
    """Not supported yet."""
    detokenize: bool = True
    """False leaves the text empty."""
    skip_special_tokens: bool = True
    """Leave special tokens out of the text."""
    spaces_between_special_tokens: bool = True
    """Put spaces between special tokens, where the tokenizer can."""
    include_stop_str_in_output: bool = False
    """Keep the matched stop string, or the stop token's text, in the text."""
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    """What streamed outputs hold; without streaming only the final one is returned."""
    stream_interval: int | None = None
    """Tokens per streamed output; the first and the last output come at once."""
    skip_clone: bool = False
    """Accepted for compatibility: frozen parameters are never cloned."""
    structured_outputs: Any = None
    """Not supported yet."""
    logit_bias: Mapping[int, float] | None = None
    """Added to the logits, by token id."""
    allowed_token_ids: Sequence[int] | None = None
    """Draw from these tokens only."""
    extra_args: Any = None
    """Not supported yet."""
    bad_words: Sequence[str] = dataclasses.field(default_factory=list)
    """Words that are never completed, with and without a leading space."""
    skip_reading_prefix_cache: bool | None = None
    """Compute the whole prompt even if a prefix is cached; None becomes True with prompt_logprobs, else False."""
    thinking_token_budget: Any = None
    """Not supported yet."""
    repetition_detection: Any = None
    """Not supported yet."""
    routed_experts_prompt_start: int = 0
    """Not supported yet."""
    trace_decode_token_ids: Any = None
    """Not supported yet."""
    truncate_prompt_tokens: int | None = None
    """Keep this many last tokens of the prompt; -1 is as many as leave room for the output."""
    best_of: InitVar[int | None] = None
    """Legacy: must equal n."""
    use_beam_search: InitVar[bool | None] = None
    """Legacy: must be false."""
    early_stopping: InitVar[Any] = None
    """Legacy: must be false."""
    logits_processors: InitVar[Any] = None
    """Legacy: must be empty."""
    guided_decoding: InitVar[Any] = None
    """Legacy: must be None."""

    def __post_init__(
        self, best_of: Any, use_beam_search: Any, early_stopping: Any, logits_processors: Any, guided_decoding: Any
    ) -> None:
        check_legacy_sampling(
            n=self.n,
            best_of=best_of,
            use_beam_search=use_beam_search,
            early_stopping=early_stopping,
            logits_processors=logits_processors,
            guided_decoding=guided_decoding,
        )
        self._refuse_unsupported()
        for name, value in (
            self._checked_drawing() | self._checked_ending() | self._checked_returning() | self._checked_edits()
        ).items():
            object.__setattr__(self, name, value)
        self._check_combinations()

    @classmethod
    def from_optional(cls, **values: Any) -> SamplingParams:
        """Parameters from a request body: None means the default, and biases are clamped instead of refused.

        `max_tokens=None` keeps its meaning, up to the model's length.
        """
        given = {name: value for name, value in values.items() if value is not None or name == "max_tokens"}
        if "logit_bias" in given:
            bias = check_logit_bias("logit_bias", given["logit_bias"])
            given["logit_bias"] = {
                token_id: min(max(value, -MAX_LOGIT_BIAS), MAX_LOGIT_BIAS) for token_id, value in bias.items()
            }
        return cls(**given)

    def clone(self, **changes: Any) -> SamplingParams:
        """A copy, with some fields changed and everything checked again."""
        return dataclasses.replace(self, **changes)

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is taken at each position."""
        return self.temperature < GREEDY_EPSILON

    def verify(
        self,
        *,
        vocab_size: int,
        max_logprobs: int = 20,
        num_end_token_ids: int = 0,
        num_bad_word_ids: int = 0,
    ) -> None:
        """Checks what depends on the model and the engine.

        `max_logprobs` -1 means no limit; `num_end_token_ids` counts the EOS and stop tokens of the request and
        `num_bad_word_ids` its tokenised bad words.
        """
        for name in ("stop_token_ids", "allowed_token_ids", "logit_bias"):
            check_in_vocabulary(name, getattr(self, name) or (), vocab_size)
        limit = vocab_size if max_logprobs == -1 else max_logprobs
        for name in ("logprobs", "prompt_logprobs"):
            check_num_logprobs(name, getattr(self, name), vocab_size, limit)
        if num_bad_word_ids > MAX_BAD_WORDS:
            raise ValidationError(
                f"bad_words must give at most {MAX_BAD_WORDS} token sequences, got {num_bad_word_ids}",
                parameter="bad_words",
            )
        num_edits = len(self.logit_bias or ()) + num_bad_word_ids + (num_end_token_ids if self.min_tokens else 0)
        if num_edits > MAX_LOGIT_EDITS:
            raise ValidationError(
                f"logit_bias, bad_words and (with min_tokens) stop_token_ids must together have at most "
                f"{MAX_LOGIT_EDITS} entries, got {num_edits}",
                parameter="logit_bias",
            )

    def _refuse_unsupported(self) -> None:
        for name, default in UNSUPPORTED_DEFAULTS.items():
            value = getattr(self, name)
            if value is not default and not (type(value) is type(default) and value == default):
                raise ValidationError(
                    f"{name} is not supported yet: leave it at {default!r}, got {value!r}", parameter=name
                )

    def _checked_drawing(self) -> dict[str, Any]:
        temperature = check_float("temperature", self.temperature, low=0.0, high=2.0)
        top_p = check_float("top_p", self.top_p, low=0.0, high=1.0)
        if top_p == 0.0:
            raise ValidationError("top_p must be above 0 and at most 1, got 0", parameter="top_p")
        top_k = min(check_int("top_k", self.top_k, low=-1), MAX_INT32)
        min_p = check_float("min_p", self.min_p, low=0.0, high=1.0)
        if temperature < GREEDY_EPSILON:
            temperature, top_p, top_k, min_p = 0.0, 1.0, 0, 0.0
        elif temperature < MIN_TEMPERATURE:
            logger.warning("temperature %g is raised to %g: below it logits overflow", temperature, MIN_TEMPERATURE)
            temperature = MIN_TEMPERATURE
        seed = None if self.seed is None else check_int("seed", self.seed, low=-(2**63), high=2**64 - 1)
        return {
            "n": check_int("n", self.n, low=1, high=MAX_N),
            "temperature": temperature,
            "top_p": top_p,
            "top_k": max(top_k, 0),
            "min_p": min_p,
            "seed": None if seed == -1 else seed,
        }

    def _checked_ending(self) -> dict[str, Any]:
        stop = [self.stop] if isinstance(self.stop, str) else (() if self.stop is None else self.stop)
        end_ids = () if self.stop_token_ids is None else self.stop_token_ids
        return {
            "stop": check_list("stop", stop, check_str, "a string or a list of strings"),
            "stop_token_ids": list(dict.fromkeys(check_token_ids("stop_token_ids", end_ids))),
            "ignore_eos": check_bool("ignore_eos", self.ignore_eos),
            "max_tokens": None if self.max_tokens is None else check_int("max_tokens", self.max_tokens, low=1),
            "min_tokens": check_int("min_tokens", self.min_tokens, low=0, high=MAX_INT32),
        }

    def _checked_returning(self) -> dict[str, Any]:
        if not isinstance(self.output_kind, RequestOutputKind):
            raise fail("output_kind", "a RequestOutputKind", self.output_kind)
        prompt_logprobs = check_logprobs("prompt_logprobs", self.prompt_logprobs)
        skip_reading = self.skip_reading_prefix_cache
        skip_reading = prompt_logprobs is not None if skip_reading is None else skip_reading
        flags = ("detokenize", "skip_special_tokens", "spaces_between_special_tokens", "include_stop_str_in_output")
        interval, kept = self.stream_interval, self.truncate_prompt_tokens
        return {name: check_bool(name, getattr(self, name)) for name in (*flags, "skip_clone")} | {
            "logprobs": check_logprobs("logprobs", self.logprobs),
            "prompt_logprobs": prompt_logprobs,
            "stream_interval": None if interval is None else check_int("stream_interval", interval, low=1),
            "skip_reading_prefix_cache": check_bool("skip_reading_prefix_cache", skip_reading),
            "truncate_prompt_tokens": None if kept is None else check_truncation("truncate_prompt_tokens", kept),
        }

    def _checked_edits(self) -> dict[str, Any]:
        bad_words = () if self.bad_words is None else self.bad_words
        repetition_penalty = check_float("repetition_penalty", self.repetition_penalty, low=0.0)
        if repetition_penalty == 0.0:
            raise ValidationError("repetition_penalty must be above 0, got 0", parameter="repetition_penalty")
        allowed = self.allowed_token_ids
        if allowed is not None:
            allowed = check_token_ids("allowed_token_ids", allowed)
            if not allowed:
                raise ValidationError(
                    "allowed_token_ids must hold at least one token id, got none", parameter="allowed_token_ids"
                )
        return {
            "presence_penalty": check_float("presence_penalty", self.presence_penalty, low=-2.0, high=2.0),
            "frequency_penalty": check_float("frequency_penalty", self.frequency_penalty, low=-2.0, high=2.0),
            "repetition_penalty": repetition_penalty,
            "logit_bias": None if self.logit_bias is None else check_logit_bias("logit_bias", self.logit_bias),
            "allowed_token_ids": allowed,
            "bad_words": check_list("bad_words", bad_words, check_str, "a list of strings"),
        }

    def _check_combinations(self) -> None:
        if self.is_greedy and self.n > 1:
            raise ValidationError(
                f"n must be 1 when temperature is 0 (every completion would be the same), got {self.n}", parameter="n"
            )
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ValidationError(
                f"min_tokens must be at most max_tokens ({self.max_tokens}), got {self.min_tokens}",
                parameter="min_tokens",
            )
        if self.stop and not self.detokenize:
            raise ValidationError(
                "stop strings are found in the text: detokenize must be True, got False", parameter="stop"
            )
