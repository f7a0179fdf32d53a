"""Speed of transformers on the CPU, for `cpu_vs_transformers.py`. Runs in an environment with torch.

    python -m benchmarks.peer_transformers --model DIRECTORY_OR_GGUF --output peer.json

A directory with a config.json but no weights runs with random weights: the speed is the same.
"""

# torch lives in a second environment.
# mypy: disable-error-code="import-not-found,untyped-decorator,misc"
# pyright: reportMissingImports=false
from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.cpu_workload import CpuWorkload, decode_rate, random_prompts


class StepClock(transformers.LogitsProcessor):
    """Notes when each step's logits are ready, and changes nothing."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.times.append(time.perf_counter())
        return scores


def main() -> None:
    arguments = _parse_arguments()
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    rates = {}
    for dtype in arguments.dtypes:
        model = load_model(arguments.model, getattr(torch, dtype))
        workload = CpuWorkload(
            prefill_len=arguments.prefill_len,
            prompt_len=arguments.prompt_len,
            output_len=arguments.output_len,
            batch_sizes=tuple(arguments.batch_sizes),
            repeats=arguments.repeats,
            vocab_size=model.config.vocab_size,
        )
        rates[dtype] = measure(model, workload, arguments.seed)
        del model
    result = {
        "engine": "transformers",
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
        "threads": arguments.threads,
        "tokens_per_second": rates,
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measure(model: transformers.PreTrainedModel, workload: CpuWorkload, seed: int) -> dict[str, float]:
    """Tokens per second of every case, by its name; one short run first warms up."""
    generator = np.random.default_rng(seed)
    _generate(model, random_prompts(generator, 1, 16, workload.vocab_size), 4)
    rates = {}
    samples = []
    for _ in range(workload.repeats):
        prompts = random_prompts(generator, 1, workload.prefill_len, workload.vocab_size)
        start = time.perf_counter()
        (first,) = _generate(model, prompts, 1)
        samples.append(workload.prefill_len / (first - start))
    rates[workload.prefill_name] = statistics.median(samples)
    for batch_size in workload.batch_sizes:
        samples = []
        for _ in range(workload.repeats):
            prompts = random_prompts(generator, batch_size, workload.prompt_len, workload.vocab_size)
            times = _generate(model, prompts, workload.output_len)
            samples.append(decode_rate([(step_time, batch_size) for step_time in times], batch_size))
        rates[workload.decode_name(batch_size)] = statistics.median(samples)
    return rates


@torch.inference_mode()
def _generate(model: Any, prompts: list[list[int]], num_tokens: int) -> list[float]:
    """When each of the `num_tokens` steps had its logits."""
    clock = StepClock()
    ids = torch.tensor(prompts)
    model.generation_config.eos_token_id = None
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=num_tokens,
        pad_token_id=0,
        logits_processor=transformers.LogitsProcessorList([clock]),
    )
    assert len(clock.times) == num_tokens, f"asked for {num_tokens} steps, saw {len(clock.times)}"
    return clock.times


def load_model(path: Path, dtype: torch.dtype) -> Any:
    """A causal language model on the CPU, from a directory or a GGUF file of a Llama."""
    if path.suffix == ".gguf":
        from tests.references.gguf_models import build_llama, read_gguf

        return build_llama(read_gguf(path)).to(dtype)
    has_weights = any(path.glob("*.safetensors")) or any(path.glob("*.bin"))
    if has_weights:
        return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()
    config = transformers.AutoConfig.from_pretrained(path)
    return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def _parse_arguments() -> argparse.Namespace:
    defaults = CpuWorkload()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face directory, or a GGUF file of a Llama")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=list(defaults.batch_sizes))
    parser.add_argument("--prefill-len", type=int, default=defaults.prefill_len)
    parser.add_argument("--prompt-len", type=int, default=defaults.prompt_len)
    parser.add_argument("--output-len", type=int, default=defaults.output_len)
    parser.add_argument("--repeats", type=int, default=defaults.repeats)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
