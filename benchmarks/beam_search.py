"""Speed of beam search: against greedy decoding of as many rows, and against transformers, in one run.

    python -m benchmarks.beam_search --model MODEL                                   # and greedy
    python -m benchmarks.beam_search --model MODEL.gguf --peer-python OTHER_ENVIRONMENT/bin/python   # and transformers

Seconds are of whole calls, prompts included. Greedy decodes `prompts * width` copies of the prompts, so it has as many
rows in each step, and the copies share the prompt's cache as beams do; both ignore EOS. The peer runs
`generate(num_beams=width)` in float32 and bfloat16, and the ratio is to the faster of the two.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cpu_workload import random_prompts
from benchmarks.host_stages import HostStages
from jaxllm import BeamSearchParams, JaxLLM, SamplingParams

REPOSITORY = Path(__file__).parent.parent


def main() -> None:
    arguments = _parse_arguments()
    peer = run_peer(arguments) if arguments.peer_python else {}
    num_rows = arguments.prompts * arguments.width
    llm = JaxLLM(
        model=arguments.model,
        dtype=arguments.dtype,
        load_format=arguments.load_format,
        skip_tokenizer_init=True,
        max_model_len=arguments.input_len + arguments.output_len,
        max_num_seqs=arguments.max_num_seqs or num_rows,
    )
    llm.wait_until_compiled()
    generator = np.random.default_rng(0)
    stages = HostStages(llm)
    beam = measure(lambda prompts: search(llm, prompts, arguments), generator, llm, arguments)
    print(f"beam search: {stages.report()}")
    greedy = measure(lambda prompts: decode(llm, prompts * arguments.width, arguments), generator, llm, arguments)
    print(f"greedy: {stages.report()}")
    case = (
        f"{arguments.prompts} prompts of {arguments.input_len}, width {arguments.width}, {arguments.output_len} tokens"
    )
    print(f"{arguments.model}, {case}")
    print(
        f"beam search of width {arguments.width} {beam:.2f} s; greedy with {num_rows} rows {greedy:.2f} s, "
        f"ratio {beam / greedy:.2f}"
    )
    for dtype, seconds in peer.items():
        print(f"transformers {dtype} {seconds:.2f} s")
    if peer:
        print(f"beam search is {min(peer.values()) / beam:.2f} times as fast as transformers")


def measure(run: Callable[[Any], Any], generator: np.random.Generator, llm: JaxLLM, arguments: Any) -> float:
    """Median seconds of a call with fresh prompts, after one that isn't counted."""
    seconds = []
    for _ in range(arguments.repeats + 1):
        prompts = random_prompts(generator, arguments.prompts, arguments.input_len, llm.vocab_size)
        start = time.perf_counter()
        run([{"prompt_token_ids": prompt} for prompt in prompts])
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def search(llm: JaxLLM, prompts: Any, arguments: Any) -> None:
    """One beam search of all prompts."""
    params = BeamSearchParams(beam_width=arguments.width, max_tokens=arguments.output_len, ignore_eos=True)
    outputs = llm.beam_search(prompts, params)
    lengths = {len(beam.tokens) for output in outputs for beam in output.sequences}
    assert lengths == {arguments.input_len + arguments.output_len}, f"beams have {lengths} tokens"


def decode(llm: JaxLLM, prompts: Any, arguments: Any) -> None:
    """Greedy decoding of all prompts."""
    params = SamplingParams(temperature=0.0, max_tokens=arguments.output_len, ignore_eos=True, detokenize=False)
    llm.generate(prompts, params, use_tqdm=False)


def run_peer(arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds of transformers by dtype, measured in the other environment."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "peer.txt"
        command = [arguments.peer_python, "-m", "benchmarks.peer_beam_search", "--output", str(output)]
        command += ["--model", str(Path(arguments.peer_model or arguments.model).resolve())]
        for name in ("prompts", "width", "input_len", "output_len", "repeats"):
            command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
        subprocess.run(command, check=True, cwd=REPOSITORY)
        lines = output.read_text(encoding="utf-8").split()
    return {dtype: float(seconds) for dtype, seconds in zip(lines[::2], lines[1::2], strict=True)}


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="what JaxLLM takes")
    parser.add_argument("--load-format", default="auto", help="dummy makes random weights")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--max-num-seqs", type=int, help="rows of a step, default prompts * width")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--width", type=int, default=4)
    parser.add_argument("--input-len", type=int, default=128)
    parser.add_argument("--output-len", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--peer-python", help="Python of an environment with torch and transformers")
    parser.add_argument("--peer-model", help="directory or GGUF file for the peer, default --model")
    return parser.parse_args()


if __name__ == "__main__":
    main()
