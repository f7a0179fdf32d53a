"""From a configuration to a running engine: the one place that joins engine, runner and text."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from jaxllm.blueprint import Blueprint
from jaxllm.config import EngineConfig
from jaxllm.engine.engine import Engine
from jaxllm.log import set_up_logging
from jaxllm.models.loading.model_files import ModelFiles
from jaxllm.models.loading.source import resolve_model
from jaxllm.runner.compile_counter import num_compiles
from jaxllm.runner.runner import ModelRunner
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
    """Loads the model, sizes the cache, gets the programs compiled, and starts the engine.

    While the weights load, the memory of the programs is measured if no earlier start on this machine did it.

    What Python holds when the engine starts is kept out of the cycle collector from then on (`gc.freeze`): to look
    through JAX's and the tokenizer's objects again took up to 159 ms, in which no step ran. `gc.unfreeze` undoes it.
    """
    set_up_logging()
    gc.unfreeze()  # what an earlier start has left is not kept for ever
    started = time.perf_counter()
    files = ModelFiles.find(config)
    tokenizer = _tokenizer(files, config)
    blueprint = Blueprint.make(config, files)
    configured = time.perf_counter()

    targets = blueprint.targets
    with ThreadPoolExecutor(1, thread_name_prefix="measure") as pool:
        measuring = pool.submit(blueprint.measure_programs)
        with _bar(config, "Loading weights", sum(target.num_bytes for target in targets), "B") as advance:
            weights = files.load(
                config.load_format,
                targets,
                has_scaled_cache=blueprint.has_scaled_cache,
                seed=config.seed,
                progress=advance,
            )
        loaded = time.perf_counter()
        programs = blueprint.programs(measuring.result())

    runner = ModelRunner(programs, weights, num_host_pages=blueprint.count_host_pages(programs.config.num_pages))
    store = blueprint.store(programs)
    with _bar(config, "Compiling programs", len(programs.names), "program") as advance:
        num_later = runner.compile(store, lambda name: advance(1), in_background=blueprint.compiles_in_background)
    compiled = time.perf_counter()
    times = StartupTimes(config=configured - started, weights=loaded - configured, compile=compiled - loaded)
    num_compiled = len(programs.names) - num_later - store.num_loaded
    logger.info(
        "Ready in %.1f s: configuration and tokenizer %.1f, weights %.1f, programs %.1f (%d compiled, %d cached%s)",
        compiled - started,
        times.config,
        times.weights,
        times.compile,
        num_compiled,
        store.num_loaded,
        f", {num_later} to come in the background" if num_later else "",
    )
    gc.freeze()
    return BuiltEngine(
        engine=Engine(
            runner,
            scheduling_policy=config.scheduling_policy,
            enable_prefix_caching=config.enable_prefix_caching,
        ),
        runner=runner,
        tokenizer=tokenizer,
        model_config=ServedModel(
            vocab_size=programs.vocab_size,
            max_model_len=programs.config.max_model_len,
            eos_token_ids=_eos_token_ids(files, tokenizer),
        ),
        generation_config=files.generation_config,
        config=config,
        startup_times=times,
        num_compiles=num_compiles,
        save_orbax=lambda directory: files.save(directory, targets, weights, tokenizer and tokenizer.hf),
    )


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
