"""A server under load on the CPU, against the same requests offline: the same answers, nearly as fast?

    python -m benchmarks.serve_load --rounds 3 --output load.md

A round runs all requests with `JaxLLM.generate`, as `jaxllm bench throughput` does, and then sends them to a
`jaxllm serve` process from many clients at once, as `jaxllm bench serve` does; the clients share the machine with the
server. Every answer must have the tokens of its offline greedy answer. The exit status is 0 if none was lost or
differs and the median of the rounds' ratios meets the bar. It shows nothing if other work held up the offline runs: the
table tells how many cores each side had, and such a run has status 1.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from jaxllm.bench.serving import ServingLoad, run_serving
from jaxllm.bench.serving_client import ServedRequest, ServingEndpoint
from jaxllm.bench.serving_requests import as_token_ids, ragged_random_requests
from jaxllm.bench.serving_result import ServingReport, ServingResult
from jaxllm.bench.throughput import ThroughputResult, run_throughput
from jaxllm.bench.workload import BenchmarkRequest, BenchmarkSampling
from tests.e2e.server_process import ServerProcess

if TYPE_CHECKING:
    from jaxllm import JaxLLM

BAR = 0.9
INPUT_LEN, OUTPUT_LEN, RANGE_RATIO = 34, 34, 0.94
"""Uniform lengths: prompts and answers of 2 to 65 tokens. Longer prompts would make the server's part smaller."""
NUM_WARMUPS = 64
MIN_SHARE = 0.95
"""Of the server's cores that the offline run must have had for a ratio to show that the bar is met."""
GREEDY = BenchmarkSampling(temperature=0.0)
MODEL = "smollm2-135m"


@dataclass(frozen=True, kw_only=True)
class Round:
    """Both sides of one round."""

    offline: ThroughputResult
    served: ServingResult
    offline_cpu_seconds: float
    """Processor time of the offline run."""
    served_cpu_seconds: float
    """Processor time of the server and its clients together. Other work on the machine disturbs it less than times."""

    @property
    def ratio(self) -> float:
        """The server's throughput over the offline one; the requests, and so their tokens, are the same."""
        return self.offline.elapsed_time / self.served.duration

    @property
    def cores(self) -> tuple[float, float]:
        """Cores that the offline run had on average, and the server with its clients."""
        served_cores = self.served_cpu_seconds / self.served.duration
        return self.offline_cpu_seconds / self.offline.elapsed_time, served_cores

    @property
    def is_offline_starved(self) -> bool:
        """Whether other work held the offline run up more than the server, so that the ratio flatters the server."""
        offline_cores, served_cores = self.cores
        return offline_cores < MIN_SHARE * served_cores

    @property
    def rates(self) -> tuple[float, float]:
        """Output tokens per second: offline, and of the server."""
        num_served = sum(self.served.output_lens)
        return self.offline.total_output_tokens / self.offline.elapsed_time, num_served / self.served.duration


def main() -> int:
    arguments = _parse_arguments()
    load_average = os.getloadavg()[0]
    rounds, problems = [], []
    with _start_offline(arguments) as llm, tempfile.TemporaryDirectory() as folder:
        requests = mixed_requests(arguments.num_prompts, vocab_size=llm.vocab_size, seed=arguments.seed)
        run_offline(llm, requests[:NUM_WARMUPS])
        with ServerProcess(arguments.model, Path(folder) / "server.log", *_server_flags(arguments)) as server:
            run_served(server, requests[:NUM_WARMUPS], num_clients=arguments.num_clients)
            for index in range(arguments.rounds):
                one = run_round(llm, server, requests, arguments.num_clients)
                rounds.append(one)
                problems += find_problems(one.offline, one.served.served)
                print(f"round {index + 1}: {_describe(one)}; {len(problems)} wrong answers so far", flush=True)
    ratio = statistics.median(one.ratio for one in rounds)
    is_met = not problems and ratio >= BAR and not any(one.is_offline_starved for one in rounds)
    text = report(rounds, problems, arguments, load_average)
    print(f"{rounds[-1].served.summary()}\n\n{text}")
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")
    return 0 if is_met else 1


def mixed_requests(
    num_requests: int,
    *,
    vocab_size: int,
    seed: int,
    input_len: int = INPUT_LEN,
    output_len: int = OUTPUT_LEN,
) -> list[BenchmarkRequest]:
    """Random prompts of many lengths that want answers of many lengths."""
    return ragged_random_requests(
        num_requests=num_requests,
        input_len=input_len,
        output_len=output_len,
        range_ratio=RANGE_RATIO,
        prefix_len=0,
        vocab_size=vocab_size,
        seed=seed,
    )


def run_round(llm: JaxLLM, server: ServerProcess, requests: Sequence[BenchmarkRequest], num_clients: int) -> Round:
    """All requests offline, then through the server."""
    start = time.process_time()
    offline = run_offline(llm, requests)
    middle = time.process_time()
    server_before = server.cpu_seconds
    served = run_served(server, requests, num_clients=num_clients)
    return Round(
        offline=offline,
        served=served,
        offline_cpu_seconds=middle - start,
        served_cpu_seconds=time.process_time() - middle + server.cpu_seconds - server_before,
    )


def run_offline(llm: JaxLLM, requests: Sequence[BenchmarkRequest]) -> ThroughputResult:
    """All greedy answers, and what they took."""
    return run_throughput(llm, requests, GREEDY, model_id=str(llm.config.model), use_tqdm=False)


def run_served(
    server: ServerProcess,
    requests: Sequence[BenchmarkRequest],
    *,
    num_clients: int,
) -> ServingResult:
    """The server's greedy answers to `num_clients` clients, each of which sends a request when one was answered."""
    fields = {"model": server.model, "temperature": 0.0, "ignore_eos": True, "return_token_ids": True}
    endpoint = ServingEndpoint(url=f"{server.base_url}/completions", is_chat=False, fields=fields, headers={})
    load = ServingLoad(max_concurrency=num_clients)
    run = run_serving(endpoint, as_token_ids(list(requests)), load, use_tqdm=False)
    return ServingResult(
        served=run.served,
        duration=run.duration,
        report=ServingReport(),
        setup={"model_id": server.model, "max_concurrency": num_clients},
    )


def find_problems(offline: ThroughputResult, served: Sequence[ServedRequest]) -> list[str]:
    """A line for every request that was lost or got another answer than offline: no line is a perfect run."""
    problems = []
    for index, (output, one) in enumerate(zip(offline.outputs, served, strict=True)):
        [expected] = output.outputs
        num_tokens = (one.usage or {}).get("completion_tokens")
        if one.error is not None:
            problems.append(f"request {index} was lost: {one.error}")
        elif one.text != expected.text:
            problems.append(f"request {index}: expected the text {expected.text!r}, got {one.text!r}")
        elif one.token_ids != expected.token_ids:
            problems.append(f"request {index}: expected the tokens {expected.token_ids}, got {one.token_ids}")
        elif num_tokens != len(expected.token_ids):
            problems.append(f"request {index}: expected a usage of {len(expected.token_ids)} tokens, got {num_tokens}")
    return problems


def report(rounds: Sequence[Round], problems: Sequence[str], arguments: argparse.Namespace, load_average: float) -> str:
    """A Markdown table with a row a round, the median of the ratios, and the first wrong answers."""
    num_input, num_output = rounds[0].offline.total_input_tokens, rounds[0].offline.total_output_tokens
    lines = [
        f"{arguments.num_prompts} requests, {num_input} prompt and {num_output} output tokens, {arguments.num_clients} "
        f"clients; {arguments.model} in {arguments.dtype}; {os.cpu_count()} cores, load average {load_average:.1f} "
        f"before the run; jax {version('jax')}.",
        "",
        "| round | offline s | served s | offline tokens/s | served tokens/s | ratio | offline CPU s | served CPU s "
        "| offline cores | served cores |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for index, one in enumerate(rounds, start=1):
        offline_rate, served_rate = one.rates
        lines.append(
            f"| {index} | {one.offline.elapsed_time:.2f} | {one.served.duration:.2f} "
            f"| {offline_rate:.1f} | {served_rate:.1f} | {one.ratio:.3f} "
            f"| {one.offline_cpu_seconds:.0f} | {one.served_cpu_seconds:.0f} "
            f"| {one.cores[0]:.2f} | {one.cores[1]:.2f} |"
        )
    ratio = statistics.median(one.ratio for one in rounds)
    num_answers = len(rounds) * arguments.num_prompts
    lines += ["", f"Median ratio {ratio:.3f}, bar {BAR}; {len(problems)} of {num_answers} answers lost or different."]
    if ratio < BAR or problems:
        lines.append("Missed.")
    elif any(one.is_offline_starved for one in rounds):
        lines.append("Inconclusive: other work held up an offline run more than the server.")
    else:
        lines.append("Met.")
    return "\n".join([*lines, *problems[:5]]) + "\n"


def _describe(one: Round) -> str:
    offline_rate, served_rate = one.rates
    return (
        f"offline {offline_rate:.1f} output tokens/s, served {served_rate:.1f}, ratio {one.ratio:.3f}, "
        f"CPU {one.offline_cpu_seconds:.0f} and {one.served_cpu_seconds:.0f} s"
    )


def _start_offline(arguments: argparse.Namespace) -> JaxLLM:
    from jaxllm import JaxLLM

    return JaxLLM(
        model=arguments.model,
        dtype=arguments.dtype,
        max_model_len=arguments.max_model_len,
        enable_prefix_caching=False,
        use_tqdm_on_load=False,
    )


def _server_flags(arguments: argparse.Namespace) -> list[str]:
    """The same engine behind the server."""
    flags = ["--dtype", arguments.dtype, "--max-model-len", str(arguments.max_model_len)]
    return [*flags, "--no-enable-prefix-caching", "--disable-uvicorn-access-log"]


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--dtype", default="float32", help="float32 makes greedy answers exact")
    parser.add_argument("--max-model-len", type=int, default=512)
    parser.add_argument("--num-prompts", type=int, default=500)
    parser.add_argument("--num-clients", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
