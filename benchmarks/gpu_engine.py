"""The engine on one GPU with random weights: start, decode steps and a prefill, against what the bytes alone cost.

python -m benchmarks.gpu_engine benchmarks/configs/llama-3.1-8b --batch-sizes 1 64
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.host_stages import HostStages
from jaxllm.llm import JaxLLM
from jaxllm.sampling_params import SamplingParams

FIRST_PLAIN_TOKEN = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--prompt-len", type=int, default=128)
    parser.add_argument("--output-len", type=int, default=128)
    parser.add_argument("--prefill-len", type=int, default=2048)
    parser.add_argument("--max-model-len", type=int, default=8192)
    parser.add_argument("--temperature", type=float, default=0.0, help="above 0 draws, with a top_p of 0.95")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    started = time.perf_counter()
    llm = JaxLLM(
        options.model,
        load_format="dummy",
        skip_tokenizer_init=True,
        max_model_len=options.max_model_len,
        enable_prefix_caching=False,
        use_tqdm_on_load=False,
    )
    seconds = time.perf_counter() - started
    llm.wait_until_compiled()
    all_seconds = time.perf_counter() - started
    phases = ", ".join(f"{name} {value:.1f} s" for name, value in llm.startup_seconds.items())
    device = jax.devices()[0]
    stats = device.memory_stats() or {}
    print(f"{device.device_kind}: ready in {seconds:.1f} s ({phases}), all programs after {all_seconds:.1f} s")
    print(f"{_gib(stats.get('bytes_in_use', 0))} in use, at most {_gib(stats.get('peak_bytes_in_use', 0))}")
    print(f"KV cache: {_gib(_cache_bytes(llm))}")
    rng = np.random.default_rng(options.seed)
    bandwidth = _copy_bandwidth()
    print(f"device copy: {bandwidth / 1e12:.2f} TB/s, bytes read and written")
    for batch_size in options.batch_sizes:
        _report_decode(llm, rng, batch_size, options, bandwidth)
    greedy = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True, detokenize=False)
    prefill = min(_seconds(llm, rng, 1, options.prefill_len, greedy) for _ in range(options.repeats + 1))
    print(f"prefill of {options.prefill_len}: {prefill * 1e3:.1f} ms, {options.prefill_len / prefill:,.0f} tokens/s")
    llm.shutdown()


def _report_decode(llm: JaxLLM, rng: np.random.Generator, batch_size: int, options: Any, bandwidth: float) -> None:
    all_params = SamplingParams(
        temperature=options.temperature,
        top_p=0.95,
        max_tokens=options.output_len + 1,
        ignore_eos=True,
        detokenize=False,
    )
    one_params = all_params.clone(max_tokens=1)
    one, all_ = [], []
    stages = HostStages(llm)
    for _ in range(options.repeats + 1):
        one.append(_seconds(llm, rng, batch_size, options.prompt_len, one_params))
        stages.report()
        all_.append(_seconds(llm, rng, batch_size, options.prompt_len, all_params))
        spent = stages.report()
    step = (float(np.median(all_[1:])) - float(np.median(one[1:]))) / options.output_len
    floor = _step_bytes(llm, batch_size, options.prompt_len + options.output_len // 2) / bandwidth
    print(
        f"decode batch {batch_size}: {step * 1e3:.2f} ms a step, {batch_size / step:,.0f} tokens/s, "
        f"{floor / step:.0%} of the byte floor {floor * 1e3:.2f} ms; "
        f"first token after {np.median(one[1:]) * 1e3:.1f} ms"
    )
    print(f"    last call, host and waiting: {spent}")


def _seconds(llm: JaxLLM, rng: np.random.Generator, batch_size: int, prompt_len: int, params: SamplingParams) -> float:
    ids = rng.integers(FIRST_PLAIN_TOKEN, llm.vocab_size, (batch_size, prompt_len))
    prompts = [{"prompt_token_ids": row.tolist()} for row in ids]
    started = time.perf_counter()
    llm.generate(prompts, params, use_tqdm=False)
    return time.perf_counter() - started


def _step_bytes(llm: JaxLLM, batch_size: int, context: int) -> int:
    """Bytes that a decode step must read: every weight but the embedding table, and the context's keys and values."""
    runner = llm._built.runner
    weights = sum(array.nbytes for array in runner._weights)
    tables = [array.nbytes for array in runner._weights if array.shape[0] == runner.vocab_size and array.ndim == 2]
    if len(tables) > 1:  # an untied head is read whole, the embedding only where tokens are
        weights -= tables[0]
    tokens = runner.num_pages * runner.page_size
    return weights + batch_size * context * _cache_bytes(llm) // tokens


def _cache_bytes(llm: JaxLLM) -> int:
    return sum(array.nbytes for array in jax.tree.leaves(llm._built.runner._state.caches))


def _copy_bandwidth(num_bytes: int = 1 << 29, repeats: int = 20) -> float:
    """Small enough for what the cache leaves of the device's memory, large enough to hide the calls."""
    array = jnp.ones(num_bytes // 4, jnp.float32)
    copy = jax.jit(lambda x: x + 1, donate_argnums=0)
    array = copy(array).block_until_ready()
    started = time.perf_counter()
    for _ in range(repeats):
        array = copy(array)
    array.block_until_ready()
    return 2 * num_bytes * repeats / (time.perf_counter() - started)


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"


if __name__ == "__main__":
    main()
