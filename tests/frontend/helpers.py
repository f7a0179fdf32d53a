"""A JaxLLM over the real engine, with a runner that types from a script and a tokenizer of single bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer

from jaxllm.async_llm import AsyncJaxLLM
from jaxllm.engine import Engine
from jaxllm.engine_args import make_engine_config
from jaxllm.llm import JaxLLM
from jaxllm.steps import NO_TARGET, ScheduledRequest, ScheduledStep, SlotStart, StepResult, TokenLogprobs
from jaxllm.text.tokenizer import FastTokenizer
from tests.engine.beam_helpers import FakeSearch

CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def make_tokenizer(chat_template: str | dict[str, str] | None = CHAT_TEMPLATE) -> FastTokenizer:
    """One token per byte, by GPT-2's alphabet, and two special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    rust = RustTokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    rust.add_special_tokens([AddedToken("<eos>", special=True), AddedToken("<end>", special=True)])

    def make_hf() -> Any:
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast(tokenizer_object=rust, eos_token="<eos>")

    return FastTokenizer(rust, make_hf=make_hf, bos_token_id=None, eos_token_id=256, chat_template=chat_template)


TOKENIZER = make_tokenizer()
EOS = 256
END = 257
VOCAB_SIZE = 258


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


@dataclass
class FinishedStep:
    step_result: StepResult

    def is_ready(self) -> bool:
        return True

    def result(self) -> StepResult:
        return self.step_result


@dataclass
class ScriptedRunner:
    """Answers each prompt with its reply, then EOS; prompts without a reply are echoed.

    At each position a beam search finds the reply's token (log-probability -0.5), then "A" (-1.5), "B" (-2.5), ...
    """

    replies: Mapping[str, str] = field(default_factory=dict)
    on_dispatch: Any = None
    num_pages: int = 129
    page_size: int = 16
    max_model_len: int = 64
    max_num_seqs: int = 8
    max_num_batched_tokens: int = 64
    vocab_size: int = VOCAB_SIZE
    num_programs_to_compile: int = 0
    num_host_pages: int = 0
    starts: list[SlotStart] = field(default_factory=list)
    is_shut_down: bool = False

    def __post_init__(self) -> None:
        self._slots: dict[int, SlotStart] = {}
        self._searches: dict[int, FakeSearch] = {}

    def reserve_host_pages(self) -> None:
        pass

    def dispatch(self, step: ScheduledStep) -> FinishedStep:
        if self.on_dispatch is not None:
            self.on_dispatch(step)
        for start in step.starts:
            self.starts.append(start)
            self._slots[start.slot] = start
            self._searches[start.slot] = FakeSearch(start, self._rank)
        result = StepResult(step_id=step.step_id, token_ids={})
        for request in step.requests:
            if request.beam_score is None:
                self._run(request, result)
        beams = [request for request in step.requests if request.beam_score is not None]
        for request_id, rows in groupby(beams, lambda request: request.request_id):
            states = [(self._slots[row.slot], row.num_output_tokens) for row in rows]
            result.beams[request_id] = self._searches[states[0][0].slot].select(states)
        return FinishedStep(result)

    def shutdown(self) -> None:
        self.is_shut_down = True

    def _run(self, request: ScheduledRequest, result: StepResult) -> None:
        start = self._slots[request.slot]
        params = start.sampling_params
        if request.prompt_logprob_targets is not None:
            targets = [target for target in request.prompt_logprob_targets.tolist() if target != NO_TARGET]
            result.prompt_logprobs[request.request_id] = [make_logprobs(target) for target in targets]
        if request.samples:
            token_id = self._draw(start, request.num_output_tokens)
            result.token_ids[request.request_id] = token_id
            if params.logprobs is not None:
                result.logprobs[request.request_id] = make_logprobs(token_id)

    def _rank(self, state: tuple[SlotStart, int]) -> list[tuple[int, float]]:
        best = self._draw(*state)
        others = [token_id for token_id in ids("ABCDEFGHIJKLMNOPQRSTUVWXYZ") if token_id != best]
        return [(token_id, -0.5 - rank) for rank, token_id in enumerate([best, *others])]

    def _draw(self, start: SlotStart, index: int) -> int:
        prompt = TOKENIZER.decode(start.prompt_token_ids.tolist(), skip_special_tokens=False)
        script = ids(self.replies.get(prompt, prompt).replace("SEED", str(start.seed % 1000)))
        if index < len(script):
            return script[index]
        return ids(".")[0] if index < start.sampling_params.min_tokens else EOS


def make_logprobs(token_id: int) -> TokenLogprobs:
    """The token has rank 2, behind "A"; "B" and "C" follow."""
    a, b, c = ids("ABC")
    return TokenLogprobs(
        token_id=token_id,
        logprob=-1.5,
        rank=2,
        top_token_ids=np.array([a, token_id, b, c], np.int32),
        top_logprobs=np.array([-0.5, -1.5, -2.5, -3.5], np.float32),
    )


def make_llm(
    replies: Mapping[str, str] | None = None,
    *,
    runner: ScriptedRunner | None = None,
    generation_config: Mapping[str, Any] | None = None,
    eos_token_ids: tuple[int, ...] = (EOS,),
    tokenizer: FastTokenizer = TOKENIZER,
    num_compiles: Callable[[], int] = lambda: 0,
    **engine_arguments: Any,
) -> JaxLLM:
    runner = runner or ScriptedRunner(replies or {})
    config = make_engine_config("scripted", **engine_arguments)
    built = SimpleNamespace(
        engine=Engine(
            runner,
            scheduling_policy=config.scheduling_policy,
            enable_prefix_caching=config.enable_prefix_caching,
        ),
        tokenizer=None if config.skip_tokenizer_init else tokenizer,
        model_config=SimpleNamespace(
            vocab_size=VOCAB_SIZE, max_model_len=runner.max_model_len, eos_token_ids=eos_token_ids
        ),
        generation_config=dict(generation_config or {}),
        config=config,
        runner=runner,
        saved=[],
        num_compiles=num_compiles,
        startup_times=SimpleNamespace(config=1.0, weights=2.0, compile=3.0, total=6.0, num_compiled=0),
    )
    built.save_orbax = built.saved.append
    return JaxLLM.from_built(cast("Any", built))


def make_async_llm(
    replies: Mapping[str, str] | None = None, *, stall_seconds: float = 300.0, **arguments: Any
) -> AsyncJaxLLM:
    """The arguments are those of `make_llm`."""
    return AsyncJaxLLM.from_built(make_llm(replies, **arguments)._built, stall_seconds=stall_seconds)


class Gate:
    """An `on_dispatch` that keeps each step waiting for leave to go on."""

    def __init__(self) -> None:
        self.is_open = False
        self._leave = threading.Semaphore(0)
        self._arrivals = threading.Semaphore(0)
        self.steps: list[ScheduledStep] = []

    def __call__(self, step: ScheduledStep) -> None:
        self.steps.append(step)
        self._arrivals.release()
        if not self.is_open:
            assert self._leave.acquire(timeout=60), "nobody let the step go on"

    def wait_for_step(self) -> ScheduledStep:
        """The next step that stands at the gate."""
        assert self._arrivals.acquire(timeout=60), "no step came"
        return self.steps[-1]

    def pass_one(self) -> None:
        """Lets one step go on."""
        self._leave.release()

    def open(self) -> None:
        """Lets all steps go on, from now on."""
        self.is_open = True
        self._leave.release()


def texts(outputs: Any) -> list[str]:
    return [completion.text for output in outputs for completion in output.outputs]
