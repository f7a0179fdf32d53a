"""Beam search of transformers on the CPU, for `beam_search.py`. Runs in an environment with torch."""

# torch lives in a second environment.
# mypy: disable-error-code="import-not-found,untyped-decorator,misc"
# pyright: reportMissingImports=false
from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.cpu_workload import random_prompts
from benchmarks.peer_transformers import load_model

DTYPES = ("float32", "bfloat16")


def main() -> None:
    arguments = _parse_arguments()
    torch.set_num_threads(os.cpu_count() or 1)
    transformers.logging.set_verbosity_error()
    seconds = {dtype: measure(load_model(arguments.model, getattr(torch, dtype)), arguments) for dtype in DTYPES}
    arguments.output.write_text("\n".join(f"{dtype} {value}" for dtype, value in seconds.items()), encoding="utf-8")


@torch.inference_mode()
def measure(model: Any, arguments: argparse.Namespace) -> float:
    """Median seconds of a call with fresh prompts, after a short one that isn't counted."""
    generator = np.random.default_rng(0)
    model.generation_config.eos_token_id = None
    seconds = []
    for index in range(arguments.repeats + 1):
        prompts = random_prompts(generator, arguments.prompts, arguments.input_len, model.config.vocab_size)
        ids = torch.tensor(prompts)
        start = time.perf_counter()
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            num_beams=arguments.width,
            max_new_tokens=arguments.output_len if index else 2,
            pad_token_id=0,
        )
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    for name in ("prompts", "width", "input-len", "output-len", "repeats"):
        parser.add_argument(f"--{name}", type=int, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
