"""Our speed on the CPU against transformers, in one run on one machine, taking turns.

    python -m benchmarks.cpu_vs_transformers --model MODEL.gguf --peer-python OTHER_ENVIRONMENT/bin/python \
        --output benchmarks/RESULTS-cpu.md

The peer runs as a subprocess of the other environment's Python (torch and transformers), in float32 and bfloat16;
the bars compare with whichever of the two is faster in each case. A round is the peer, then us; medians of the
rounds count. Both decode greedily, ignore EOS, and get random prompts that are new in each measurement.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.cpu_workload import CpuWorkload, decode_rate, random_prompts

if TYPE_CHECKING:
    from jaxllm import JaxLLM

REPOSITORY = Path(__file__).parent.parent
MAX_MODEL_LEN = 1024
PREFILL_BAR = 0.8
DECODE_BARS = {1: 2.0, 8: 1.3, 32: 1.7}

Rates = dict[str, float]
"""Tokens per second by case name."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All rounds of both sides."""

    workload: CpuWorkload
    ours: list[Rates]
    """One entry a round."""
    peer: dict[str, list[Rates]]
    """The same by dtype."""
    peer_versions: dict[str, str]
    load_average: float
    """Of the minute before the first round: what else the machine was doing."""

    def our_rate(self, case: str) -> float:
        return statistics.median(rates[case] for rates in self.ours)

    def peer_rate(self, dtype: str, case: str) -> float:
        return statistics.median(rates[case] for rates in self.peer[dtype])

    def ratio(self, case: str) -> float:
        """Ours over the peer's better dtype."""
        return self.our_rate(case) / max(self.peer_rate(dtype, case) for dtype in self.peer)


def main() -> None:
    arguments = _parse_arguments()
    workload = CpuWorkload(batch_sizes=tuple(arguments.batch_sizes), repeats=arguments.repeats)
    load_average = os.getloadavg()[0]
    peer_rounds, our_rounds = [], []
    llm = None
    for index in range(arguments.rounds):
        print(f"round {index + 1} of {arguments.rounds}: transformers", flush=True)
        peer_rounds.append(run_peer(arguments, seed=index))
        print(f"round {index + 1} of {arguments.rounds}: jaxllm", flush=True)
        llm = llm or _start(arguments, workload)
        our_rounds.append(measure(llm, workload, seed=index))
    comparison = Comparison(
        workload=workload,
        ours=our_rounds,
        peer={dtype: [each["tokens_per_second"][dtype] for each in peer_rounds] for dtype in arguments.peer_dtypes},
        peer_versions=peer_rounds[0]["versions"],
        load_average=load_average,
    )
    text = report(comparison, arguments)
    print(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")


def measure(llm: JaxLLM, workload: CpuWorkload, seed: int) -> Rates:
    """Our tokens per second of every case."""
    generator = np.random.default_rng(seed)
    rates = {}
    samples = []
    for _ in range(workload.repeats):
        prompts = random_prompts(generator, 1, workload.prefill_len, workload.vocab_size)
        start = time.perf_counter()
        step_times = _stream(llm, prompts, 1)
        samples.append(workload.prefill_len / (step_times[-1][0] - start))
    rates[workload.prefill_name] = statistics.median(samples)
    for batch_size in workload.batch_sizes:
        samples = []
        for _ in range(workload.repeats):
            prompts = random_prompts(generator, batch_size, workload.prompt_len, workload.vocab_size)
            samples.append(decode_rate(_stream(llm, prompts, workload.output_len), batch_size))
        rates[workload.decode_name(batch_size)] = statistics.median(samples)
    return rates


def _stream(llm: JaxLLM, prompts: list[list[int]], num_tokens: int) -> list[tuple[float, int]]:
    """When tokens came and how many."""
    from jaxllm import SamplingParams
    from jaxllm.sampling_params import RequestOutputKind

    params = SamplingParams(
        temperature=0.0,
        max_tokens=num_tokens,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )
    inputs: Any = [{"prompt_token_ids": prompt} for prompt in prompts]
    step_times = []
    for output in llm.generate(inputs, params, use_tqdm=False, stream=True):
        step_times.append((time.perf_counter(), len(output.outputs[0].token_ids)))
    num_drawn = sum(count for _, count in step_times)
    assert num_drawn == len(prompts) * num_tokens, f"expected {len(prompts) * num_tokens} tokens, got {num_drawn}"
    return step_times


def _start(arguments: argparse.Namespace, workload: CpuWorkload) -> JaxLLM:
    """The engine, after one unmeasured request of each kind."""
    from jaxllm import JaxLLM

    llm = JaxLLM(model=arguments.model, dtype=arguments.dtype, max_model_len=MAX_MODEL_LEN)
    generator = np.random.default_rng(2**32)
    for batch_size in workload.batch_sizes:
        _stream(llm, random_prompts(generator, batch_size, workload.prompt_len, workload.vocab_size), 4)
    _stream(llm, random_prompts(generator, 1, workload.prefill_len, workload.vocab_size), 1)
    return llm


def run_peer(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One round of transformers, in the other environment."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "peer.json"
        command = [arguments.peer_python, "-m", "benchmarks.peer_transformers"]
        command += ["--model", Path(arguments.peer_model or arguments.model).resolve(), "--output", output]
        command += ["--dtypes", *arguments.peer_dtypes, "--batch-sizes", *arguments.batch_sizes]
        command += ["--repeats", arguments.repeats, "--seed", seed]
        subprocess.run([str(part) for part in command], check=True, cwd=REPOSITORY)
        return dict(json.loads(output.read_text(encoding="utf-8")))


def report(comparison: Comparison, arguments: argparse.Namespace) -> str:
    """A Markdown page: machine, versions, one row a case."""
    dtypes = list(comparison.peer)
    header = ["case", "jaxllm", *(f"transformers {dtype}" for dtype in dtypes), "ratio", "bar", ""]
    rows = [header, ["---"] * len(header)]
    for case, bar in _bars(comparison.workload):
        ratio = comparison.ratio(case)
        peer = [f"{comparison.peer_rate(dtype, case):.1f}" for dtype in dtypes]
        verdict = "" if bar is None else "met" if ratio >= bar else "missed"
        bar_text = "" if bar is None else f"{bar:.1f}"
        rows.append([case, f"{comparison.our_rate(case):.1f}", *peer, f"{ratio:.2f}", bar_text, verdict])
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    workload = comparison.workload
    lines = [
        "# CPU: jaxllm against transformers",
        "",
        f"Model {Path(arguments.model).name}, jaxllm dtype {arguments.dtype}; {os.cpu_count()} cores, {_cpu_name()}; "
        f"load average {comparison.load_average:.1f} before the run.",
        f"jaxllm {_version('jaxllm')}, jax {_version('jax')}; "
        + ", ".join(f"{name} {number}" for name, number in comparison.peer_versions.items())
        + ".",
        f"Tokens per second, median of {arguments.rounds} rounds of {workload.repeats}; decode: prompt "
        f"{workload.prompt_len}, output {workload.output_len}, counted from the moment every request has its first "
        "token; prefill: up to the first token. The ratio is to the faster dtype of transformers.",
        "",
        table,
        "",
    ]
    return "\n".join(lines)


def _bars(workload: CpuWorkload) -> list[tuple[str, float | None]]:
    decode = [(workload.decode_name(batch_size), DECODE_BARS.get(batch_size)) for batch_size in workload.batch_sizes]
    return [(workload.prefill_name, PREFILL_BAR), *decode]


def _version(package: str) -> str:
    try:
        return version(package)
    except ImportError:
        return "from source"


def _cpu_name() -> str:
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.is_file():
        for line in cpu_info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="what JaxLLM gets")
    parser.add_argument("--dtype", default="auto", help="jaxllm's dtype")
    parser.add_argument("--peer-python", required=True, help="Python of an environment with torch and transformers")
    parser.add_argument("--peer-model", help="directory or GGUF file for the peer, default --model")
    parser.add_argument("--peer-dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=list(CpuWorkload().batch_sizes))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1, help="measurements of each case in a round")
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    peer_model = Path(arguments.peer_model or arguments.model)
    if not peer_model.exists():
        parser.error(f"the peer needs a directory or a GGUF file: name it with --peer-model, got {peer_model}")
    return arguments


if __name__ == "__main__":
    main()
