"""The user's model: generate, chat and stream, over an engine in this process."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from jaxllm.engine_args import make_engine_config
from jaxllm.frontend.arguments import (
    as_conversations,
    check_params,
    check_reset_options,
    per_prompt,
    refuse_unsupported,
)
from jaxllm.frontend.calls import run_call, stream_call
from jaxllm.frontend.conversations import ChatOptions, Message
from jaxllm.frontend.loaded_model import LoadedModel
from jaxllm.frontend.preparation import prepare_requests
from jaxllm.frontend.progress import BarFactory, ProgressBar
from jaxllm.inputs import ParsedPrompt, Prompt, TokenizationOptions, parse_prompts
from jaxllm.legacy import merge_legacy_prompts
from jaxllm.outputs import RequestOutput
from jaxllm.sampling_params import RequestOutputKind, SamplingParams
from jaxllm.validation import check_bool, check_int

if TYPE_CHECKING:
    from jaxllm.build import BuiltEngine

logger = logging.getLogger(__name__)


class JaxLLM(LoadedModel):
    """A model, ready to generate.

    `JaxLLM(model=...)` loads it and compiles its programs; the keyword arguments are `EngineConfig`'s fields, and
    vLLM's names for them work too. Use it as a context manager, or call `shutdown`, to free the device early.
    """

    def __init__(self, model: str | Path, **engine_arguments: Any) -> None:
        config = make_engine_config(model, **engine_arguments)
        logger.info("Starting an engine with %s", config.non_defaults())
        from jaxllm.build import build_engine  # imports jax and transformers

        super().__init__(build_engine(config))

    @classmethod
    def from_built(cls, built: BuiltEngine) -> Self:
        """Over an engine that was built already."""
        llm = cls.__new__(cls)
        LoadedModel.__init__(llm, built)
        return llm

    @overload
    def generate(
        self,
        prompts: Prompt | Sequence[Prompt] | None = None,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool | BarFactory = True,
        lora_request: None = None,
        priority: int | Sequence[int] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: None = None,
        prompt_token_ids: Any = None,
        stream: Literal[False] = False,
    ) -> list[RequestOutput]: ...

    @overload
    def generate(
        self,
        prompts: Prompt | Sequence[Prompt] | None = None,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool | BarFactory = True,
        lora_request: None = None,
        priority: int | Sequence[int] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: None = None,
        prompt_token_ids: Any = None,
        stream: Literal[True],
    ) -> Iterator[RequestOutput]: ...

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt] | None = None,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool | BarFactory = True,
        lora_request: None = None,
        priority: int | Sequence[int] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: None = None,
        prompt_token_ids: Any = None,
        stream: bool = False,
    ) -> list[RequestOutput] | Iterator[RequestOutput]:
        """Completes one prompt or many; the outputs come in the order of the prompts.

        Without `sampling_params` the model's own defaults apply. No chat template is applied. With `stream=True` the
        outputs come one by one as tokens are drawn, those of different prompts interleaved, each as its params'
        `output_kind` says; closing the iterator aborts what still runs. Nothing starts if any prompt is wrong.
        `prompt_token_ids` is a legacy name for tokenised prompts.
        """
        refuse_unsupported(lora_request=lora_request, mm_processor_kwargs=mm_processor_kwargs)
        parsed = parse_prompts(merge_legacy_prompts(prompts, prompt_token_ids))
        options = TokenizationOptions.parse(tokenization_kwargs)
        use_tqdm = False if check_bool("stream", stream) else use_tqdm
        return self._complete(parsed, sampling_params, options, use_tqdm, use_tqdm, priority, stream)

    @overload
    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool | BarFactory = True,
        lora_request: None = None,
        priority: int | Sequence[int] | None = None,
        chat_template: str | None = None,
        chat_template_content_format: str = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: None = None,
        *,
        stream: Literal[False] = False,
    ) -> list[RequestOutput]: ...

    @overload
    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool | BarFactory = True,
        lora_request: None = None,
        priority: int | Sequence[int] | None = None,
        chat_template: str | None = None,
        chat_template_content_format: str = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: None = None,
        *,
        stream: Literal[True],
    ) -> Iterator[RequestOutput]: ...

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool | BarFactory = True,
        lora_request: None = None,
        priority: int | Sequence[int] | None = None,
        chat_template: str | None = None,
        chat_template_content_format: str = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: None = None,
        *,
        stream: bool = False,
    ) -> list[RequestOutput] | Iterator[RequestOutput]:
        """Answers one conversation or many, each rendered with the chat template and then completed as `generate` does.

        The template writes BOS itself, so tokenisation adds no special tokens. `tools` only go to the template.
        """
        refuse_unsupported(lora_request=lora_request, mm_processor_kwargs=mm_processor_kwargs)
        use_tqdm = False if check_bool("stream", stream) else use_tqdm
        chat_options = ChatOptions(
            chat_template=chat_template,
            chat_template_content_format=chat_template_content_format,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            chat_template_kwargs=chat_template_kwargs,
        )
        conversations = as_conversations(messages)
        options = TokenizationOptions.parse(tokenization_kwargs, add_special_tokens=False)
        with ProgressBar(use_tqdm, total=len(conversations), description="Rendering conversations") as bar:
            rendered: list[ParsedPrompt] = []
            for conversation in conversations:
                text = self._renderer.render(conversation, chat_options)
                rendered.append(ParsedPrompt(text=text, token_ids=None))
                bar.advance()
        return self._complete(rendered, sampling_params, options, use_tqdm, False, priority, stream)

    def reset_prefix_cache(self, reset_running_requests: bool = False, reset_connector: bool = False) -> bool:
        """Forgets all cached prompts; False, and nothing done, while requests run.

        With `reset_running_requests` these lose their pages too, and compute all their tokens again.
        """
        return self._frontend.reset_prefix_cache(check_reset_options(reset_running_requests, reset_connector))

    def abort(self, request_ids: str | Iterable[str]) -> None:
        """Ends requests of a running stream; each gives a last output with finish_reason "abort"."""
        self._frontend.abort([request_ids] if isinstance(request_ids, str) else request_ids)

    def shutdown(self) -> None:
        """Frees the device; later calls raise EngineDeadError, a second shutdown does nothing."""
        self._frontend.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def _complete(
        self,
        parsed: list[ParsedPrompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        options: TokenizationOptions,
        use_tqdm: bool | BarFactory,
        rendering_bar: bool | BarFactory,
        priority: int | Sequence[int] | None,
        stream: bool,
    ) -> list[RequestOutput] | Iterator[RequestOutput]:
        params = self._params_per_prompt(sampling_params, len(parsed), stream)
        priorities = per_prompt("priority", 0 if priority is None else priority, len(parsed), check_int)
        with ProgressBar(rendering_bar, total=len(parsed), description="Rendering prompts") as bar:
            prepared = prepare_requests(self._frontend, parsed, params, priorities, options, bar.advance)
        return stream_call(self._frontend, prepared) if stream else run_call(self._frontend, prepared, use_tqdm)

    def _params_per_prompt(self, given: Any, count: int, stream: bool) -> list[SamplingParams]:
        params = per_prompt(
            "sampling_params", self._frontend.default_sampling_params if given is None else given, count, check_params
        )
        if stream:
            return params
        final = {id(one): one.clone(output_kind=RequestOutputKind.FINAL_ONLY) for one in params}
        return [final[id(one)] for one in params]


LLM = JaxLLM
"""The name that users of vLLM know."""
