"""From a configuration to a running engine: the one place that joins engine, runner and text."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jax.numpy as jnp
from jax.sharding import Mesh
from tqdm import tqdm

from jaxllm.config import EngineConfig
from jaxllm.engine.engine import Engine
from jaxllm.log import set_up_logging
from jaxllm.models.attention import HeadLayout
from jaxllm.models.config import ModelConfig
from jaxllm.models.loading.cache import cache_directory
from jaxllm.models.loading.load import WeightTarget
from jaxllm.models.loading.model_files import ModelFiles
from jaxllm.models.loading.source import resolve_model
from jaxllm.models.parameters import describe
from jaxllm.models.registry import build_model
from jaxllm.pallas_kernels.paged_attention.api import require_backend
from jaxllm.runner.compile_counter import num_compiles
from jaxllm.runner.defaults import StepLimits, choose_dtype, choose_limits
from jaxllm.runner.executables import ExecutableStore, program_key
from jaxllm.runner.memory import CacheSize, free_bytes, kv_bytes_per_token, size_cache, workspace_bytes
from jaxllm.runner.runner import ModelRunner, RunnerConfig
from jaxllm.runner.sampler import LogprobsMode
from jaxllm.runner.sharding import make_mesh, shard
from jaxllm.text.load_tokenizer import load_tokenizer
from jaxllm.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


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
    """Finding the model, its configurations and its tokenizer."""
    weights: float
    compile: float


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
    num_compiles: Callable[[], int]
    """How many programs were compiled in this process so far."""
    save_orbax: Callable[[str | Path], None]
    """Writes the converted weights, for `JaxLLM(model=directory)`."""


def build_engine(config: EngineConfig) -> BuiltEngine:
    """Loads the model, sizes the cache, gets the programs compiled, and starts the engine."""
    set_up_logging()
    started = time.perf_counter()
    files = ModelFiles.find(config)
    model = files.model_config
    tokenizer = _tokenizer(files, config)
    mesh = _mesh(config)
    platform = mesh.devices.flat[0].platform
    dtype = choose_dtype(config.dtype, model.dtype, platform)
    kind = mesh.devices.flat[0].device_kind
    logger.info(
        "%s: %s in %s on %d %s device(s) (%s)", config.model, model.architecture, dtype, mesh.size, platform, kind
    )
    configured = time.perf_counter()

    graphdef, infos, treedef = describe(build_model(model, mesh))
    targets = [
        WeightTarget(
            name=info.name,
            sources=info.sources,
            assemble=info.assemble,
            shape=info.shape,
            dtype=jnp.dtype(dtype),
            sharding=shard(mesh, info.shape, info.axes),
        )
        for info in infos
    ]
    num_bytes = sum(target.num_bytes for target in targets)
    with _bar(config, "Loading weights", num_bytes, "B") as advance:
        weights = files.load(config.load_format, targets, seed=config.seed, progress=advance)
    loaded = time.perf_counter()

    limits = choose_limits(config, platform)
    layout = HeadLayout.of(model, mesh.size)
    token_bytes = kv_bytes_per_token(model, layout, jnp.dtype(dtype).itemsize)
    cache = _size_cache(config, model, limits, mesh, token_bytes)
    runner_config = RunnerConfig(
        max_num_seqs=limits.max_num_seqs,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        max_model_len=cache.max_model_len,
        page_size=config.page_size,
        num_pages=cache.num_pages,
        max_logprobs=model.vocab_size if config.max_logprobs == -1 else min(config.max_logprobs, model.vocab_size),
        logprobs_mode=cast(LogprobsMode, config.logprobs_mode),
        dtype=dtype,
    )
    runner = ModelRunner(
        runner_config,
        graphdef=graphdef,
        treedef=treedef,
        weights=tuple(weights),
        cache_shape=(cache.num_pages, config.page_size, layout.kv_heads, layout.head_dim),
        num_layers=model.num_layers,
        vocab_size=model.vocab_size,
        mesh=mesh,
    )
    logger.info(
        "Weights %.2f GiB; KV cache %.2f GiB: %s tokens in %d pages of %d; up to %d sequences of %d tokens",
        num_bytes / 2**30,
        cache.num_pages * config.page_size * token_bytes / 2**30,
        f"{(cache.num_pages - 1) * config.page_size:,}",
        cache.num_pages,
        config.page_size,
        limits.max_num_seqs,
        cache.max_model_len,
    )
    store = _store(config, model, runner_config, mesh)
    with _bar(config, "Compiling programs", len(runner.program_names), "program") as advance:
        runner.compile(store, lambda name: advance(1))
    compiled = time.perf_counter()
    times = StartupTimes(config=configured - started, weights=loaded - configured, compile=compiled - loaded)
    logger.info(
        "Ready in %.1f s: configuration and tokenizer %.1f, weights %.1f, programs %.1f (%d compiled, %d cached)",
        compiled - started,
        times.config,
        times.weights,
        times.compile,
        store.num_compiled,
        len(runner.program_names) - store.num_compiled,
    )
    return BuiltEngine(
        engine=Engine(
            runner,
            scheduling_policy=config.scheduling_policy,
            enable_prefix_caching=config.enable_prefix_caching,
        ),
        runner=runner,
        tokenizer=tokenizer,
        model_config=ServedModel(
            vocab_size=model.vocab_size,
            max_model_len=cache.max_model_len,
            eos_token_ids=_eos_token_ids(files, tokenizer),
        ),
        generation_config=files.generation_config,
        config=config,
        startup_times=times,
        num_compiles=num_compiles,
        save_orbax=lambda directory: files.save(directory, targets, weights, tokenizer and tokenizer.hf),
    )


def _mesh(config: EngineConfig) -> Mesh:
    # The pool is sized from what the device has; JAX must not set a smaller share aside by its own rule.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{max(config.device_memory_utilization, 0.95):.2f}")
    mesh = make_mesh(config.device, config.tensor_parallel_size)
    require_backend(mesh.devices.flat[0].platform)
    return mesh


def _tokenizer(files: ModelFiles, config: EngineConfig) -> Tokenizer | None:
    if config.skip_tokenizer_init:
        return None
    source = files.source
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


def _size_cache(
    config: EngineConfig, model: ModelConfig, limits: StepLimits, mesh: Mesh, token_bytes: int
) -> CacheSize:
    """The pool of pages that fits beside the weights."""
    free = free_bytes(
        config,
        list(mesh.devices.flat),
        cache_bytes_per_token=token_bytes,
        reserved=workspace_bytes(model, limits),
        model_len=model.max_position_embeddings,
    )
    return size_cache(
        config,
        model_len=model.max_position_embeddings,
        page_bytes=config.page_size * token_bytes,
        max_num_seqs=limits.max_num_seqs,
        free=free,
    )


def _store(config: EngineConfig, model: ModelConfig, runner_config: RunnerConfig, mesh: Mesh) -> ExecutableStore:
    directory = Path(config.compilation_cache_dir or cache_directory() / "programs").expanduser()
    devices = list(mesh.devices.flat)
    kinds = [(device.platform, device.device_kind, device.id) for device in devices]
    return ExecutableStore(directory, program_key(model, runner_config, kinds), devices)


def _eos_token_ids(files: ModelFiles, tokenizer: Tokenizer | None) -> tuple[int, ...]:
    extra = files.generation_config.get("eos_token_id")
    ids = [*files.model_config.eos_token_ids, *(extra if isinstance(extra, list) else [extra])]
    if tokenizer is not None:
        ids += [tokenizer.eos_token_id, *tokenizer.extra_eos_token_ids]
    return tuple(dict.fromkeys(int(token_id) for token_id in ids if token_id is not None))


@contextmanager
def _bar(config: EngineConfig, title: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """A progress bar, unless the user wants none."""
    hidden = not config.use_tqdm_on_load
    with tqdm(total=total, desc=title, unit=unit, unit_scale=unit == "B", disable=hidden, leave=False) as bar:

        def advance(amount: int) -> None:
            bar.update(amount)

        yield advance
