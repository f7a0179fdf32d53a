"""Writes the tiny models and their reference outputs: `python -m tests.references.make_tiny [name ...]`. Needs torch.

For each variant, seeds are tried in order until greedy decoding is firm (every margin above MINIMUM_MARGIN) and
varied (many different tokens), so that token equality is a fair and a telling test.
"""

# torch lives in a second environment.
# mypy: disable-error-code="import-not-found,untyped-decorator,misc"
# pyright: reportMissingImports=false
from __future__ import annotations

import argparse
import itertools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

from tests.references.greedy import GreedyCase, UnstableCaseError, decode_greedily, write_outputs
from tests.references.reference import DATA_DIRECTORY
from tests.references.variants import VARIANTS, Variant

PROMPT_LENS = (1, 5, 17, 40, 62)
NUM_TOKENS = 30
MINIMUM_MARGIN = 4e-3
MINIMUM_DISTINCT = 9
MINIMUM_MEAN_DISTINCT = 15
NUM_SHARDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="variants to make, default all")
    names = parser.parse_args().names
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for variant in VARIANTS:
        if not names or any(variant.name.startswith(name) for name in names):
            make_variant(variant)


def make_variant(variant: Variant) -> None:
    """Searches a seed and writes data/<name>/."""
    for seed in itertools.count():
        with tempfile.TemporaryDirectory() as folder:
            _write_model(Path(folder), variant, seed)
            cases = _decode_all(Path(folder), variant, seed)
            if cases is None:
                continue
            directory = DATA_DIRECTORY / variant.name
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
            for path in Path(folder).iterdir():
                shutil.copyfile(path, directory / path.name)
        write_outputs(directory, cases, architecture=variant.architecture, seed=seed)
        distinct = [_num_distinct(case) for case in cases]
        margin = min(case.minimum_margin for case in cases)
        print(f"{variant.name}: seed {seed}, minimum margin {margin}, distinct tokens {distinct} of {NUM_TOKENS}")
        return


def _decode_all(directory: Path, variant: Variant, seed: int) -> list[GreedyCase] | None:
    """Decodes every prompt with the model read back from `directory`; None if a path is not firm or not varied."""
    model_class = getattr(transformers, variant.architecture)
    model, info = model_class.from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
    wrong = [*info["unexpected_keys"], *info["mismatched_keys"], *(set(info["missing_keys"]) - {"lm_head.weight"})]
    assert not wrong, f"{variant.name} does not read back: {info}"
    model.eval()
    cases = []
    for prompt in _prompts(model.config.vocab_size, seed):
        try:
            case = decode_greedily(model, prompt, NUM_TOKENS, with_prompt_logprobs=True)
        except UnstableCaseError:
            return None
        if case.minimum_margin < MINIMUM_MARGIN or _num_distinct(case) < MINIMUM_DISTINCT:
            return None
        cases.append(case)
    mean_distinct = sum(map(_num_distinct, cases)) / len(cases)
    return cases if mean_distinct >= MINIMUM_MEAN_DISTINCT else None


def _num_distinct(case: GreedyCase) -> int:
    return len(set(case.output_token_ids))


def _prompts(vocab_size: int, seed: int) -> list[list[int]]:
    generator = np.random.default_rng([seed, 1])
    prompts = [generator.integers(0, vocab_size, length).tolist() for length in PROMPT_LENS]
    prompts[1][:2] = [0, vocab_size - 1]
    return prompts


def _write_model(directory: Path, variant: Variant, seed: int) -> None:
    model_class = getattr(transformers, variant.architecture)
    config = {
        "architectures": [variant.architecture],
        "model_type": model_class.config_class.model_type,
        "dtype": variant.weight_dtype,
        **variant.config,
    }
    _write_json(directory / "config.json", config)
    special = {key: value for key, value in variant.config.items() if key in ("bos_token_id", "eos_token_id")}
    _write_json(directory / "generation_config.json", {"_from_model_config": True, **special})
    model = model_class(transformers.AutoConfig.from_pretrained(directory))
    state = _random_state(model, variant, seed)
    if model.config.tie_word_embeddings and not variant.storage.startswith("bin"):
        state.pop("lm_head.weight", None)
    _write_weights(directory, variant, state)


def _random_state(model: transformers.PreTrainedModel, variant: Variant, seed: int) -> dict[str, torch.Tensor]:
    """Random tensors for every parameter, also for norms and biases: defaults (ones, zeros) would hide mistakes."""
    generator = np.random.default_rng([seed, 0])
    dtype = getattr(torch, variant.weight_dtype)
    state = {}
    for name, parameter in model.named_parameters():
        noise = generator.standard_normal(tuple(parameter.shape), dtype=np.float32)
        state[name] = torch.from_numpy(_scaled(name, noise, variant)).to(dtype)
    if model.config.tie_word_embeddings:
        state["lm_head.weight"] = state[next(name for name in state if name.endswith("embed_tokens.weight"))]
    return state


def _scaled(name: str, noise: np.ndarray, variant: Variant) -> np.ndarray:
    for key, scale in variant.scales.items():
        if key in name:
            return noise * np.float32(scale)
    if "norm" in name and name.endswith("weight"):
        starts_at_one = variant.architecture != "Gemma3ForCausalLM"
        return np.float32(starts_at_one) + np.float32(0.3) * noise
    if name.endswith("bias"):
        return np.float32(0.4) * noise
    if "embed" in name or "lm_head" in name:
        return np.float32(0.5) * noise
    return noise * np.float32(1.4 / np.sqrt(noise.shape[-1]))


def _write_weights(directory: Path, variant: Variant, state: dict[str, torch.Tensor]) -> None:
    match variant.storage:
        case "safetensors":
            save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
        case "safetensors-sharded":
            _write_shards(directory, state)
        case "bin":
            torch.save(state, directory / "pytorch_model.bin")
        case "bin-bare-prefix":
            bare = {name.removeprefix("model."): tensor for name, tensor in state.items() if name != "lm_head.weight"}
            torch.save(bare, directory / "pytorch_model.bin")


def _write_shards(directory: Path, state: dict[str, torch.Tensor]) -> None:
    weight_map: dict[str, str] = {}
    for shard in range(NUM_SHARDS):
        file_name = f"model-{shard + 1:05d}-of-{NUM_SHARDS:05d}.safetensors"
        part = dict(list(state.items())[shard::NUM_SHARDS])
        save_file(part, directory / file_name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file_name)
    total_size = sum(tensor.nbytes for tensor in state.values())
    index = {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))}
    _write_json(directory / "model.safetensors.index.json", index)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
