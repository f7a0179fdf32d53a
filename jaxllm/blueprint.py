"""What an engine is made of, known before any weight is read: its programs can be compiled from this alone."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxllm.config import EngineConfig
from jaxllm.models.attention import HeadLayout
from jaxllm.models.config import ModelConfig
from jaxllm.models.loading.cache import cache_directory
from jaxllm.models.loading.load import WeightTarget
from jaxllm.models.loading.model_files import ModelFiles
from jaxllm.models.parameters import describe
from jaxllm.models.registry import build_model
from jaxllm.pallas_kernels.paged_attention.api import require_backend, require_cache_dtype
from jaxllm.runner.defaults import StepLimits, choose_cache_dtype, choose_dtype, choose_limits
from jaxllm.runner.device_memory import DeviceMemory, set_memory_share
from jaxllm.runner.executables import ExecutableStore
from jaxllm.runner.memory import (
    CacheSize,
    MemoryPlan,
    count_host_pages,
    kv_bytes_per_token,
    most_cache_bytes,
    size_cache,
    wanted_model_len,
)
from jaxllm.runner.program_key import machine_key, program_key
from jaxllm.runner.program_memory import MemoryRecord, ProgramMemory, estimated_bytes
from jaxllm.runner.programs import ProgramSet, RunnerConfig
from jaxllm.runner.sampler import LogprobsMode
from jaxllm.runner.sharding import make_mesh, shard

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """A configuration and all that follows from it, the model's configuration files and the devices."""

    config: EngineConfig
    files: ModelFiles
    mesh: Mesh
    dtype: str
    cache_dtype: str
    """Of keys and values; both are names of jax's."""
    limits: StepLimits
    graphdef: Any
    treedef: jax.tree_util.PyTreeDef
    targets: list[WeightTarget]
    """The weights to load, in the order in which programs take them."""
    memory: DeviceMemory
    """Of the device with the least room, before anything is loaded."""

    @classmethod
    def make(cls, config: EngineConfig, files: ModelFiles) -> Blueprint:
        """Looks at the devices; downloads, loads and compiles nothing."""
        mesh = _mesh(config)
        platform = mesh.devices.flat[0].platform
        dtype = choose_dtype(config.dtype, files.model_config.dtype, platform)
        cache_dtype = choose_cache_dtype(config.kv_cache_dtype, dtype, files.model_config.saved_cache_dtype)
        require_cache_dtype(cache_dtype, platform)
        graphdef, infos, treedef = describe(build_model(files.model_config, mesh))
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
        blueprint = cls(
            config=config,
            files=files,
            mesh=mesh,
            dtype=dtype,
            cache_dtype=cache_dtype,
            limits=choose_limits(config, platform),
            graphdef=graphdef,
            treedef=treedef,
            targets=targets,
            memory=DeviceMemory.of(list(mesh.devices.flat)),
        )
        blueprint._log()
        return blueprint

    @property
    def model(self) -> ModelConfig:
        """The model's shapes."""
        return self.files.model_config

    @property
    def devices(self) -> list[jax.Device]:
        """Those of the mesh."""
        return list(self.mesh.devices.flat)

    @property
    def has_scaled_cache(self) -> bool:
        """Whether the cache's dtype is one that checkpoints bring scales for."""
        return jnp.dtype(self.cache_dtype).itemsize == 1

    @property
    def compiles_in_background(self) -> bool:
        """Whether serving starts before all programs are compiled."""
        wanted = self.config.background_compile
        return self.devices[0].platform != "cpu" if wanted is None else wanted

    @cached_property
    def head_layout(self) -> HeadLayout:
        """How the heads lie in the cache."""
        return HeadLayout.of(self.model, self.mesh.size)

    @property
    def cache_bytes_per_token(self) -> int:
        """Over all layers and devices."""
        return kv_bytes_per_token(self.model, self.head_layout, jnp.dtype(self.cache_dtype).itemsize)

    @property
    def page_bytes(self) -> int:
        """Of one page, over all layers and devices."""
        return self.config.page_size * self.cache_bytes_per_token

    def measure_programs(self) -> ProgramMemory | None:
        """What the largest programs take beside weights and cache; None where the pool doesn't depend on it.

        From an earlier start if there was one, else the programs are compiled for it.
        """
        if self.devices[0].platform == "cpu" or self.config.kv_cache_memory_bytes is not None:
            return None
        return self.measure_largest_programs()

    def measure_largest_programs(self) -> ProgramMemory:
        """What XLA says of the largest programs over the pool that the estimate gives."""
        wanted_len = wanted_model_len(self.config, self.model.max_position_embeddings)
        num_pages = max(2, self.plan_memory(None).cache * self.mesh.size // self.page_bytes)
        provisional = self._programs(CacheSize(num_pages=num_pages, max_model_len=wanted_len))
        without_pool = dataclasses.replace(provisional.config, num_pages=0)
        record = MemoryRecord(self._directory, program_key(self.devices, self.model, without_pool))
        known = record.read()
        if known is None:
            lowered = [lower() for lower in provisional.lowers(provisional.largest).values()]
            with ThreadPoolExecutor(len(lowered)) as pool:
                known = ProgramMemory.in_turn(pool.map(lambda one: ProgramMemory.of(one.compile()), lowered))
            record.write(known)
        return known

    def plan_memory(self, measured: ProgramMemory | None) -> MemoryPlan:
        """What each device's memory goes to, with an estimate for programs that were not measured."""
        return MemoryPlan(
            device=self.memory,
            utilization=self.config.device_memory_utilization,
            weights=self._weight_bytes,
            slots=self._programs(CacheSize(num_pages=1, max_model_len=1)).resident_bytes,
            programs=estimated_bytes(self.model, self.limits) if measured is None else measured.reserved,
            are_programs_measured=measured is not None,
            most_cache=most_cache_bytes(
                self.config,
                self.devices,
                model_len=self.model.max_position_embeddings,
                cache_bytes_per_token=self.cache_bytes_per_token,
            ),
        )

    def size_cache(self, plan: MemoryPlan) -> CacheSize:
        """The pool of pages that the plan has room for."""
        return size_cache(
            self.config,
            model_len=self.model.max_position_embeddings,
            page_bytes=self.page_bytes,
            max_num_seqs=self.limits.max_num_seqs,
            free=plan.cache * self.mesh.size,
        )

    def programs(self, measured: ProgramMemory | None) -> ProgramSet:
        """The programs over the pool that fits beside them; the plan behind it goes to the log."""
        plan = self.plan_memory(measured)
        cache = self.size_cache(plan)
        tokens = (cache.num_pages - 1) * self.config.page_size
        note = (
            f"{tokens:,} tokens in {self.cache_dtype}, in {cache.num_pages:,} pages of {self.config.page_size}; "
            f"up to {self.limits.max_num_seqs} sequences of {cache.max_model_len:,} tokens"
        )
        logger.info("Memory%s:", " per device" if self.mesh.size > 1 else "")
        for line in plan.lines(cache.num_pages * self.page_bytes // self.mesh.size, note):
            logger.info("%s", line)
        return self._programs(cache)

    def count_host_pages(self, num_pages: int) -> int:
        """Pages that preempted requests may keep in the host's memory, beside a cache of `num_pages`."""
        count = count_host_pages(
            self.config.swap_space, num_devices=self.mesh.size, num_pages=num_pages, page_bytes=self.page_bytes
        )
        logger.info(
            "Preempted requests keep up to %s tokens in %.2f GiB of the host's memory, taken when the cache fills up",
            f"{count * self.config.page_size:,}",
            count * self.page_bytes / 2**30,
        )
        return count

    def store(self, programs: ProgramSet) -> ExecutableStore:
        """Where these programs are kept."""
        key = program_key(self.devices, self.model, programs.config)
        return ExecutableStore(self._directory, key, self.devices)

    def _programs(self, cache: CacheSize) -> ProgramSet:
        config, model = self.config, self.model
        runner_config = RunnerConfig(
            max_num_seqs=self.limits.max_num_seqs,
            max_num_batched_tokens=self.limits.max_num_batched_tokens,
            max_model_len=cache.max_model_len,
            page_size=config.page_size,
            num_pages=cache.num_pages,
            max_logprobs=model.vocab_size if config.max_logprobs == -1 else min(config.max_logprobs, model.vocab_size),
            logprobs_mode=cast(LogprobsMode, config.logprobs_mode),
            dtype=self.dtype,
            cache_dtype=self.cache_dtype,
        )
        layout = self.head_layout
        return ProgramSet(
            runner_config,
            graphdef=self.graphdef,
            treedef=self.treedef,
            weights=[jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=one.sharding) for one in self.targets],
            cache_shape=(cache.num_pages, config.page_size, layout.kv_heads, layout.head_dim),
            num_layers=model.num_layers,
            hidden_size=model.hidden_size,
            vocab_size=model.vocab_size,
            mesh=self.mesh,
            autotune_directory=self._autotune_directory,
        )

    @property
    def _weight_bytes(self) -> int:
        """Of one device."""
        shapes = ((one.sharding.shard_shape(one.shape), jnp.dtype(one.dtype).itemsize) for one in self.targets)
        return sum(math.prod(shape) * itemsize for shape, itemsize in shapes)

    @property
    def _directory(self) -> Path:
        return Path(self.config.compilation_cache_dir or cache_directory() / "programs").expanduser()

    @cached_property
    def _autotune_directory(self) -> Path | None:
        """Where XLA keeps what it measures on a GPU: by machine, of which its own files say nothing."""
        if self.devices[0].platform != "gpu":
            return None
        digest = hashlib.sha256(machine_key(self.devices).encode()).hexdigest()
        directory = self._directory / "autotune" / digest[:32]
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            logger.warning("XLA's measurements can't be kept for the next start: %s", error)
            return None
        return directory

    def _log(self) -> None:
        device = self.devices[0]
        logger.info(
            "%s: %s in %s on %d %s device(s) (%s)",
            self.config.model,
            self.model.architecture,
            self.dtype,
            self.mesh.size,
            device.platform,
            device.device_kind,
        )


def _mesh(config: EngineConfig) -> Mesh:
    set_memory_share(config.device_memory_utilization)
    mesh = make_mesh(config.device, config.tensor_parallel_size)
    require_backend(mesh.devices.flat[0].platform)
    return mesh
