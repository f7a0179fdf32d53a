"""The text of one completion as its tokens come in: stop strings are found, stop tokens left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxllm.sampling_params import RequestOutputKind, SamplingParams
from jaxllm.text.detokenizer import Detokenizer
from jaxllm.text.stop_strings import StopStrings

if TYPE_CHECKING:
    from jaxllm.text.tokenizer import Tokenizer


class CompletionText:
    """Grows with the tokens. Text that nobody reads before the end is decoded at the end, in one go."""

    def __init__(self, tokenizer: Tokenizer | None, params: SamplingParams, *, prompt_token_ids: Sequence[int]) -> None:
        self._detokenizer: Detokenizer | None = None
        if tokenizer is not None and params.detokenize:
            self._detokenizer = Detokenizer(
                tokenizer,
                prompt_token_ids,
                skip_special_tokens=params.skip_special_tokens,
                spaces_between_special_tokens=params.spaces_between_special_tokens,
            )
        self._stop_strings = StopStrings(params.stop, include=params.include_stop_str_in_output)
        self._has_stop_strings = bool(params.stop)
        self._keeps_stop_token = params.include_stop_str_in_output
        self._min_tokens = params.min_tokens
        self._waits_for_end = not params.stop and params.output_kind is RequestOutputKind.FINAL_ONLY
        self._waiting_token_ids: list[int] = []
        self._final_text: str | None = None
        self.stop_string: str | None = None
        """The stop string that was found."""

    @property
    def visible(self) -> str:
        """The text so far, without the characters that may turn out to begin a stop string."""
        if self._detokenizer is None:
            return ""
        if self._final_text is not None:
            return self._final_text
        text = self._detokenizer.text
        return text[: self._stop_strings.releasable(text, finished=False)]

    def append(self, token_ids: Sequence[int], *, num_before: int, ends_with_stop_token: bool) -> int:
        """Takes tokens that follow `num_before` others; returns how many there are up to a stop string's end."""
        if self._detokenizer is None:
            return len(token_ids)
        is_last_hidden = ends_with_stop_token and not self._keeps_stop_token
        readable = token_ids[:-1] if is_last_hidden else token_ids
        if self._waits_for_end:
            self._waiting_token_ids.extend(readable)
        elif not self._has_stop_strings:
            self._detokenizer.append(readable)
        else:
            for num_taken, token_id in enumerate(readable, start=1):
                new_text = self._detokenizer.append([token_id])
                is_ignored = num_before + num_taken <= self._min_tokens
                match = self._stop_strings.feed(new_text, is_ignored=is_ignored)
                if match is not None:
                    self.stop_string = match.stop
                    self._final_text = self._detokenizer.text[: match.text_length]
                    return num_taken
        return len(token_ids)

    def finish(self) -> None:
        """Makes all text visible: nothing comes any more."""
        if self._detokenizer is None or self._final_text is not None:
            return
        self._detokenizer.append(self._waiting_token_ids)
        self._detokenizer.flush()
        self._final_text = self._detokenizer.text
