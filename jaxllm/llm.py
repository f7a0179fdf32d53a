"""The user's model: generate, chat and stream, over an engine in this process."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from jaxllm.beam_search_params import BeamSearchParams
from jaxllm.config import EngineConfig
from jaxllm.engine_args import make_engine_config
from jaxllm.frontend.arguments import AnyParams, check_reset_options, refuse_unsupported
from jaxllm.frontend.calls import Call, run_call, run_searches, stream_call
from jaxllm.frontend.conversations import ChatOptions, Message, render_conversations
from jaxllm.frontend.loaded_model import LoadedModel
from jaxllm.frontend.preparation import prepare_call, prepare_searches
from jaxllm.frontend.progress import BarFactory
from jaxllm.inputs import Prompt, TokenizationOptions, parse_prompts
from jaxllm.legacy import merge_legacy_positions, merge_legacy_prompts
from jaxllm.outputs import BeamSearchOutput, RequestOutput, as_request_output
from jaxllm.validation import check_bool, fail

if TYPE_CHECKING:
    from jaxllm.build import BuiltEngine

logger = logging.getLogger(__name__)


class JaxLLM(LoadedModel):
    """A model, ready to generate.

    `JaxLLM(model=...)` loads it and compiles its programs; the keyword arguments are `EngineConfig`'s fields, and
    vLLM's names for them work too. Use it as a context manager, or call `shutdown`, to free the device early.
    """

    def __init__(self, model: str | Path, *legacy_arguments: Any, **engine_arguments: Any) -> None:
        merge_legacy_positions(legacy_arguments, engine_arguments)
        self._start(make_engine_config(model, **engine_arguments))

    @classmethod
    def from_engine_args(cls, engine_args: EngineConfig | Mapping[str, Any]) -> Self:
        """From a configuration (such as an `EngineArgs`), or from the constructor's arguments as a mapping."""
        if not isinstance(engine_args, EngineConfig):
            return cls(**engine_args)
        llm = cls.__new__(cls)
        llm._start(engine_args)
        return llm

    @classmethod
    def from_built(cls, built: BuiltEngine) -> Self:
        """Over an engine that was built already."""
        llm = cls.__new__(cls)
        llm._attach(built)
        return llm

    def _start(self, config: EngineConfig) -> None:
        logger.info("Starting an engine with %s", config.non_defaults())
        from jaxllm.build import build_engine  # imports jax and transformers

        self._attach(build_engine(config))

    def _attach(self, built: BuiltEngine) -> None:
        super().__init__(built)
        self._queued = Call(self._frontend)

    @overload
    def generate(
        self,
        prompts: Prompt | Sequence[Prompt] | None = None,
        sampling_params: AnyParams | Sequence[AnyParams] | None = None,
        *,
        use_tqdm: bool | BarFactory = True,
        lora_request: None = None,
        priority: int | Sequence[int] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: None = None,
        prompt_token_ids: Any = None,
        prompt_adapter_request: None = None,
        guided_options_request: None = None,
        stream: Literal[False] = False,
    ) -> list[RequestOutput]: ...

    @overload
    def generate(
        self,
        prompts: Prompt | Sequence[Prompt] | None = None,
        sampling_params: AnyParams | Sequence[AnyParams] | None = None,
        *,
        use_tqdm: bool | BarFactory = True,
        lora_request: None = None,
        priority: int | Sequence[int] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: None = None,
        prompt_token_ids: Any = None,
        prompt_adapter_request: None = None,
        guided_options_request: None = None,
        stream: Literal[True],
    ) -> Generator[RequestOutput]: ...

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt] | None = None,
        sampling_params: AnyParams | Sequence[AnyParams] | None = None,
        *,
        use_tqdm: bool | BarFactory = True,
        lora_request: None = None,
        priority: int | Sequence[int] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: None = None,
        prompt_token_ids: Any = None,
        prompt_adapter_request: None = None,
        guided_options_request: None = None,
        stream: bool = False,
    ) -> list[RequestOutput] | Generator[RequestOutput]:
        """Completes one prompt or many; the outputs come in the order of the prompts.

        Without `sampling_params` the model's own defaults apply. No chat template is applied. With `stream=True` the
        outputs come one by one as tokens are drawn, those of different prompts interleaved, each as its params'
        `output_kind` says; closing the iterator aborts what still runs. Nothing starts if any prompt is wrong.
        `prompt_token_ids` is a legacy name for tokenised prompts.

        BeamSearchParams make it a beam search, whose results are the `outputs`, best first; there is nothing to stream.
        """
        refuse_unsupported(
            lora_request=lora_request,
            mm_processor_kwargs=mm_processor_kwargs,
            prompt_adapter_request=prompt_adapter_request,
            guided_options_request=guided_options_request,
        )
        parsed = parse_prompts(merge_legacy_prompts(prompts, prompt_token_ids))
        options = TokenizationOptions.parse(tokenization_kwargs)
        use_tqdm = False if check_bool("stream", stream) else use_tqdm
        prepared = prepare_call(
            self._frontend, parsed, sampling_params, options, use_tqdm, priority, is_final_only=not stream
        )
        return stream_call(self._frontend, prepared) if stream else run_call(self._frontend, prepared, use_tqdm)

    @overload
    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: AnyParams | Sequence[AnyParams] | None = None,
        use_tqdm: bool | BarFactory = True,
        lora_request: None = None,
        priority: int | Sequence[int] | None = None,
        chat_template: str | Path | None = None,
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
        sampling_params: AnyParams | Sequence[AnyParams] | None = None,
        use_tqdm: bool | BarFactory = True,
        lora_request: None = None,
        priority: int | Sequence[int] | None = None,
        chat_template: str | Path | None = None,
        chat_template_content_format: str = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: None = None,
        *,
        stream: Literal[True],
    ) -> Generator[RequestOutput]: ...

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: AnyParams | Sequence[AnyParams] | None = None,
        use_tqdm: bool | BarFactory = True,
        lora_request: None = None,
        priority: int | Sequence[int] | None = None,
        chat_template: str | Path | None = None,
        chat_template_content_format: str = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: None = None,
        *,
        stream: bool = False,
    ) -> list[RequestOutput] | Generator[RequestOutput]:
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
        options = TokenizationOptions.parse(tokenization_kwargs, add_special_tokens=False)
        rendered = render_conversations(self._renderer, messages, chat_options, use_tqdm)
        prepared = prepare_call(
            self._frontend, rendered, sampling_params, options, False, priority, is_final_only=not stream
        )
        return stream_call(self._frontend, prepared) if stream else run_call(self._frontend, prepared, use_tqdm)

    def beam_search(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: BeamSearchParams,
        lora_request: None = None,
        use_tqdm: bool | BarFactory = False,
        concurrency_limit: int | None = None,
        priority: int | Sequence[int] | None = None,
    ) -> list[BeamSearchOutput]:
        """Searches likely continuations of one prompt or many; the outputs come in the order of the prompts.

        `BeamSearchParams` says how a search goes. All beams of all prompts run together, or `concurrency_limit` prompts
        at once, and then without a bar. No chat template is applied. Nothing starts if any prompt is wrong.
        """
        refuse_unsupported(lora_request=lora_request)
        prepared = prepare_searches(self._frontend, parse_prompts(prompts), params, priority)
        return run_searches(self._frontend, prepared, use_tqdm, concurrency_limit)

    def enqueue(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: AnyParams | Sequence[AnyParams] | None = None,
        lora_request: None = None,
        priority: int | Sequence[int] | None = None,
        use_tqdm: bool | BarFactory = True,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: None = None,
    ) -> list[str]:
        """Adds requests as `generate` would, and returns their ids; `wait_for_completion` runs them."""
        refuse_unsupported(lora_request=lora_request, mm_processor_kwargs=mm_processor_kwargs)
        options = TokenizationOptions.parse(tokenization_kwargs)
        return self._queued.add(
            prepare_call(
                self._frontend, parse_prompts(prompts), sampling_params, options, use_tqdm, priority, is_final_only=True
            )
        )

    def enqueue_chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: AnyParams | Sequence[AnyParams] | None = None,
        use_tqdm: bool | BarFactory = True,
        lora_request: None = None,
        priority: int | Sequence[int] | None = None,
        chat_template: str | Path | None = None,
        chat_template_content_format: str = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: None = None,
    ) -> list[str]:
        """Adds requests as `chat` would, and returns their ids; `wait_for_completion` runs them."""
        refuse_unsupported(lora_request=lora_request, mm_processor_kwargs=mm_processor_kwargs)
        chat_options = ChatOptions(
            chat_template=chat_template,
            chat_template_content_format=chat_template_content_format,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            chat_template_kwargs=chat_template_kwargs,
        )
        options = TokenizationOptions.parse(tokenization_kwargs, add_special_tokens=False)
        rendered = render_conversations(self._renderer, messages, chat_options, use_tqdm)
        return self._queued.add(
            prepare_call(self._frontend, rendered, sampling_params, options, False, priority, is_final_only=True)
        )

    def wait_for_completion(
        self, output_type: type[RequestOutput] | None = None, *, use_tqdm: bool | BarFactory = True
    ) -> list[RequestOutput]:
        """Runs what was enqueued since the last call; the final outputs, in the order of their ids."""
        if output_type not in (None, RequestOutput):
            raise fail("output_type", "RequestOutput or None", output_type)
        queued, self._queued = self._queued, Call(self._frontend)
        return [as_request_output(output) for output in queued.run(use_tqdm)]

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


LLM = JaxLLM
"""The name that users of vLLM know."""
