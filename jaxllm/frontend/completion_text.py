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
        self._params = params
        self._detokenizer: Detokenizer | None = None
        if tokenizer is not None and params.detokenize:
            self._detokenizer = Detokenizer(
                tokenizer,
                prompt_token_ids,
                skip_special_tokens=params.skip_special_tokens,
                spaces_between_special_tokens=params.spaces_between_special_tokens,
            )
        self._stop_strings = StopStrings(params.stop) if params.stop else None
        self._waits_for_end = not params.stop and params.output_kind is RequestOutputKind.FINAL_ONLY
        self._waiting_token_ids: list[int] = []
        self._text = ""
        self._is_finished = False
        self.stop_string: str | None = None
        """The stop string that was found."""
