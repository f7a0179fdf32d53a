"""Answers from an engine in this process."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from jaxllm.cli.answer import Message, Piece

if TYPE_CHECKING:
    from jaxllm.llm import JaxLLM
    from jaxllm.outputs import RequestOutput
    from jaxllm.sampling_params import SamplingParams


class LocalAnswers:
    """A model of one's own; `sampling` are values on top of the model's default sampling parameters."""

    def __init__(self, llm: JaxLLM, **sampling: Any) -> None:
        self._llm = llm
        self._sampling = sampling

    def chat(self, messages: Sequence[Message]) -> Generator[Piece]:
        """The next turn of a conversation, as long as the model wants unless max_tokens was given."""
        return self._stream(self._llm.chat(messages, self._params(max_tokens=None), stream=True))

    def complete(self, prompt: str) -> Generator[Piece]:
        """What follows a text."""
        return self._stream(self._llm.generate(prompt, self._params(), stream=True))

    def close(self) -> None:
        """Ends the engine."""
        self._llm.shutdown()

    def _params(self, **defaults: Any) -> SamplingParams:
        from jaxllm.sampling_params import RequestOutputKind

        values = defaults | self._sampling
        return self._llm.get_default_sampling_params().clone(output_kind=RequestOutputKind.DELTA, **values)

    @staticmethod
    def _stream(outputs: Iterator[RequestOutput]) -> Generator[Piece]:
        num_tokens = 0
        for output in outputs:
            [completion] = output.outputs
            num_tokens += len(completion.token_ids)
            yield Piece(text=completion.text, num_tokens=num_tokens)
