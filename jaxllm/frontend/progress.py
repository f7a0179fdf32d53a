"""The progress bars of a call."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from jaxllm.outputs import BeamSearchOutput, RequestOutput, as_request_output
from jaxllm.validation import fail

BarFactory = Callable[..., Any]
"""Makes a bar like `tqdm.tqdm` from `total` and `desc`."""


class ProgressBar:
    """A bar, or nothing where the caller wants none."""

    def __init__(self, use_tqdm: bool | BarFactory, *, total: int, description: str) -> None:
        factory = _bar_factory(use_tqdm)
        self._bar = None if factory is None else factory(total=total, desc=description)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, count: int = 1) -> None:
        """Counts work as done."""
        if self._bar is not None:
            self._bar.update(count)

    def describe(self, text: str) -> None:
        """Shows `text` behind the bar."""
        if self._bar is not None and hasattr(self._bar, "set_postfix_str"):
            self._bar.set_postfix_str(text, refresh=False)


class GenerationProgress:
    """The bar of running requests, with tokens per second in and out."""

    def __init__(self, use_tqdm: bool | BarFactory, *, total: int) -> None:
        self._bar = ProgressBar(use_tqdm, total=total, description="Processed prompts")
        self._start = time.perf_counter()
        self._num_input_tokens = 0
        self._num_output_tokens = 0

    def __enter__(self) -> GenerationProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.__exit__()

    def finish(self, output: RequestOutput | BeamSearchOutput) -> None:
        """Counts a finished request."""
        output = as_request_output(output)
        self._num_input_tokens += len(output.prompt_token_ids) * len(output.outputs)
        self._num_output_tokens += sum(len(completion.token_ids) for completion in output.outputs)
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        self._bar.describe(
            f"est. speed input: {self._num_input_tokens / elapsed:.2f} toks/s, "
            f"output: {self._num_output_tokens / elapsed:.2f} toks/s"
        )
        self._bar.advance()


def _bar_factory(use_tqdm: bool | BarFactory) -> BarFactory | None:
    if use_tqdm is False:
        return None
    if use_tqdm is not True:
        if not callable(use_tqdm):
            raise fail("use_tqdm", "a bool or a function that makes a bar", use_tqdm)
        return use_tqdm
    from tqdm.auto import tqdm  # costs 50 ms of import that callers without bars needn't pay

    def make_bar(**arguments: Any) -> Any:
        return tqdm(dynamic_ncols=True, **arguments)

    return make_bar
