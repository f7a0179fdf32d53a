"""From a configuration to a running engine: the one place that joins engine, runner and text."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from jaxllm.config import EngineConfig
from jaxllm.engine.engine import Engine
from jaxllm.errors import ValidationError
from jaxllm.log import set_up_logging
from jaxllm.models.attention import HeadLayout
from jaxllm.models.config import ModelConfig
from jaxllm.models.loading.cache import cache_directory
from jaxllm.models.loading.checkpoint import (
    Checkpoint,
    RenamedCheckpoint,
    open_checkpoint,
    read_generation_config,
    read_hf_config,
)
from jaxllm.models.loading.load import WeightTarget, dummy_weights, load_weights
from jaxllm.models.loading.orbax import load_orbax, save_orbax
from jaxllm.models.loading.source import ModelSource, resolve_model
from jaxllm.models.parameters import ParameterInfo, describe
from jaxllm.models.registry import build_model
from jaxllm.pallas_kernels.paged_attention.api import require_backend
from jaxllm.runner.defaults import choose_dtype, choose_limits
from jaxllm.runner.executables import ExecutableStore, program_key
from jaxllm.runner.memory import free_bytes, size_cache
from jaxllm.runner.runner import ModelRunner, RunnerConfig
from jaxllm.runner.sharding import make_mesh, shard
from jaxllm.text.load_tokenizer import load_tokenizer
from jaxllm.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

_TOKENIZER_FILES = ("tokenizer*", "vocab.*", "merges.txt", "*.model", "special_tokens_map.json", "chat_template.jinja")


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """What the front needs to know of the model."""

    vocab_size: int
    max_model_len: int
    """Longest prompt plus output that this engine serves."""
    eos_token_ids: tuple[int, ...]
    """Ids that end a text: the tokenizer's and those of config and generation config."""


@dataclass(frozen=True, kw_only=True)
class StartupTimes:
    """Seconds of each phase of the start."""

    config: float
    weights: float
    compile: float
    total: float
    num_compiled: int
    """Programs that no cache had."""


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """An engine and what stands around it."""

    engine: Engine
    runner: ModelRunner
    tokenizer: Tokenizer | None
    """None with skip_tokenizer_init."""
    model_config: ServedModel
    generation_config: Mapping[str, Any]
    config: EngineConfig
    startup_times: StartupTimes
    save_orbax: Callable[[str | Path], None]
    """Writes the converted weights, for `JaxLLM(model=directory)`."""


def build_engine(config: EngineConfig) -> BuiltEngine:
    """Loads the model, sizes the cache, gets the programs compiled, and starts the engine."""
    set_up_logging()
    started = time.perf_counter()
    if config.device in ("auto", "gpu"):
        # The pool is sized from what the device has; JAX must not set a share of it aside by its own rule.
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{max(config.device_memory_utilization, 0.95):.2f}")
    source = resolve_model(
        config.model, revision=config.revision, download_dir=config.download_dir, hf_token=config.hf_token
    )
    hf_config = _overridden(read_hf_config(source), config)
    model_config = ModelConfig.from_hf(hf_config)
    generation_config = _generation_config(source, config)
    tokenizer = _tokenizer(source, config)
    mesh = make_mesh(config.device, config.tensor_parallel_size)
    platform = mesh.devices.flat[0].platform
    require_backend(platform)
    dtype = choose_dtype(config.dtype, model_config.dtype, platform)
    configured = time.perf_counter()
    logger.info(
        "%s: %s on %d %s device(s) (%s), %s",
        config.model,
        model_config.architecture,
        mesh.size,
        platform,
        mesh.devices.flat[0].device_kind,
        dtype,
    )

    graphdef, infos, treedef = describe(build_model(model_config, mesh))
    targets = [_target(info, dtype, mesh) for info in infos]
    weights = _load(source, config, model_config, targets)
    loaded = time.perf_counter()

    limits = choose_limits(config, platform)
    layout = HeadLayout.of(model_config, mesh.size)
    token_bytes = 2 * layout.kv_heads * layout.head_dim * np.dtype(jax.numpy.dtype(dtype)).itemsize
    token_bytes *= model_config.num_layers
    longest = config.max_model_len if isinstance(config.max_model_len, int) else model_config.max_position_embeddings
    _check_length(longest, model_config)
    # The widest thing a step makes beside weights and cache are its logits and the activations of the MLP.
    reserved = 4 * (3 * limits.max_num_seqs * model_config.vocab_size)
    reserved += 8 * limits.max_num_batched_tokens * (model_config.hidden_size + model_config.intermediate_size)
    free = free_bytes(
        config,
        list(mesh.devices.flat),
        sequence_bytes=(longest + 2 * config.page_size) * token_bytes,
        reserved=reserved,
    )
    cache = size_cache(
        config,
        model_len=model_config.max_position_embeddings,
        page_bytes=config.page_size * token_bytes,
        max_num_seqs=limits.max_num_seqs,
        free=free,
    )
    runner_config = RunnerConfig(
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        max_model_len=cache.max_model_len,
        page_size=config.page_size,
        num_pages=cache.num_pages,
        max_logprobs=model_config.vocab_size
        if config.max_logprobs == -1
        else min(config.max_logprobs, model_config.vocab_size),
        logprobs_mode=config.logprobs_mode,  # type: ignore[arg-type]
        dtype=dtype,
    )
    runner = ModelRunner(
        runner_config,
        graphdef=graphdef,
        treedef=treedef,
        weights=tuple(weights),
        cache_shape=(cache.num_pages, config.page_size, layout.kv_heads, layout.head_dim),
        num_layers=model_config.num_layers,
        vocab_size=model_config.vocab_size,
        mesh=mesh,
    )
    logger.info(
        "KV cache: %s tokens in %d pages of %d, %.2f GiB; up to %d sequences of %d tokens",
        f"{(cache.num_pages - 1) * config.page_size:,}",
        cache.num_pages,
        config.page_size,
        cache.num_pages * config.page_size * token_bytes / 2**30,
        limits.max_num_seqs,
        cache.max_model_len,
    )
    store = _store(config, model_config, runner_config, mesh)
    with _bar(config, "Compiling programs", len(runner.program_names), "program") as advance:
        runner.compile(store, lambda name: advance(1))
    compiled = time.perf_counter()
    times = StartupTimes(
        config=configured - started,
        weights=loaded - configured,
        compile=compiled - loaded,
        total=compiled - started,
        num_compiled=store.num_compiled,
    )
    logger.info(
        "Ready in %.1f s: config and tokenizer %.1f, weights %.1f, programs %.1f (%d compiled, %d from cache)",
        times.total,
        times.config,
        times.weights,
        times.compile,
        store.num_compiled,
        len(runner.program_names) - store.num_compiled,
    )
    engine = Engine(
        runner,
        scheduling_policy=config.scheduling_policy,
        enable_prefix_caching=config.enable_prefix_caching,
    )
    eos = _eos_token_ids(model_config, generation_config, tokenizer)

    def save(directory: str | Path) -> None:
        arrays = {target.name: array for target, array in zip(targets, weights, strict=True)}
        save_orbax(
            directory,
            arrays,
            config=hf_config,
            generation_config=generation_config,
            tokenizer_files=_tokenizer_files(source),
        )

    return BuiltEngine(
        engine=engine,
        runner=runner,
        tokenizer=tokenizer,
        model_config=ServedModel(
            vocab_size=model_config.vocab_size, max_model_len=cache.max_model_len, eos_token_ids=eos
        ),
        generation_config=generation_config,
        config=config,
        startup_times=times,
        save_orbax=save,
    )


def _overridden(hf_config: dict[str, Any], config: EngineConfig) -> dict[str, Any]:
    if callable(config.hf_overrides):
        return dict(config.hf_overrides(dict(hf_config)))
    return {**hf_config, **(config.hf_overrides or {})}


def _generation_config(source: ModelSource, config: EngineConfig) -> dict[str, Any]:
    """The model's, or that of the directory the user named. EOS ids are read even where "jaxllm" drops the rest."""
    if config.generation_config in ("auto", "jaxllm"):
        return read_generation_config(source)
    return read_generation_config(resolve_model(config.generation_config))


def _tokenizer(source: ModelSource, config: EngineConfig) -> Tokenizer | None:
    if config.skip_tokenizer_init:
        return None
    if config.tokenizer is not None:
        revision = config.tokenizer_revision or config.revision
        source = resolve_model(
            config.tokenizer, revision=revision, download_dir=config.download_dir, hf_token=config.hf_token
        )
    return load_tokenizer(
        source.path,
        kind="gguf" if source.kind == "gguf" else "hf",
        trust_remote_code=config.trust_remote_code,
        tokenizer_mode=config.tokenizer_mode,
    )


def _target(info: ParameterInfo, dtype: str, mesh: Mesh) -> WeightTarget:
    return WeightTarget(
        name=info.name,
        sources=info.sources,
        assemble=info.assemble,
        shape=info.shape,
        dtype=jax.numpy.dtype(dtype),
        sharding=shard(mesh, info.shape, info.axes),
    )


def _load(
    source: ModelSource, config: EngineConfig, model_config: ModelConfig, targets: list[WeightTarget]
) -> list[jax.Array]:
    if config.load_format == "dummy":
        return dummy_weights(targets, seed=config.seed)
    if source.kind == "orbax":
        return load_orbax(source.path, targets)
    if config.load_format == "orbax":
        raise ValidationError(
            f"load_format='orbax' needs a directory that save_orbax wrote, got {source.path}", parameter="load_format"
        )
    checkpoint = _with_model_prefix(open_checkpoint(source, load_format=config.load_format))
    ignored = ("lm_head.weight",) if model_config.tie_word_embeddings else ()
    total = sum(target.num_bytes for target in targets)
    with _bar(config, "Loading weights", total, "B") as advance:
        return load_weights(checkpoint, targets, ignored=ignored, progress=advance)


def _with_model_prefix(checkpoint: Checkpoint) -> Checkpoint:
    """Some checkpoints were saved from the bare model: their names lack the leading `model.`."""
    if any(name.startswith("model.") for name in checkpoint.names()):
        return checkpoint
    return RenamedCheckpoint(checkpoint, lambda name: name if name.startswith("lm_head.") else f"model.{name}")


def _check_length(longest: int, model_config: ModelConfig) -> None:
    if longest > model_config.max_position_embeddings:
        raise ValidationError(
            f"max_model_len={longest} is longer than the model's {model_config.max_position_embeddings} positions",
            parameter="max_model_len",
        )


def _store(config: EngineConfig, model_config: ModelConfig, runner_config: RunnerConfig, mesh: Mesh) -> ExecutableStore:
    directory = Path(config.compilation_cache_dir or cache_directory() / "programs").expanduser()
    devices = list(mesh.devices.flat)
    kinds = [(device.platform, device.device_kind, device.id) for device in devices]
    return ExecutableStore(directory, program_key(model_config, runner_config, kinds), devices)


def _eos_token_ids(
    model_config: ModelConfig, generation_config: Mapping[str, Any], tokenizer: Tokenizer | None
) -> tuple[int, ...]:
    ids = list(model_config.eos_token_ids)
    extra = generation_config.get("eos_token_id")
    ids += extra if isinstance(extra, list) else [] if extra is None else [extra]
    if tokenizer is not None:
        ids += [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
        ids += tokenizer.extra_eos_token_ids
    return tuple(dict.fromkeys(ids))


def _tokenizer_files(source: ModelSource) -> list[Path]:
    directory = source.path if source.path.is_dir() else source.path.parent
    return [file for pattern in _TOKENIZER_FILES for file in sorted(directory.glob(pattern)) if file.is_file()]


@contextmanager
def _bar(config: EngineConfig, title: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """A progress bar, unless the user wants none."""
    scaled = unit == "B"
    with tqdm(
        total=total, desc=title, unit=unit, unit_scale=scaled, disable=not config.use_tqdm_on_load, leave=False
    ) as bar:
        yield lambda amount: bar.update(amount) and None
