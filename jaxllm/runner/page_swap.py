"""Where pages go whose request is preempted: to host memory, from which they come back when it runs again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from jax.sharding import Mesh

from jaxllm.models.inputs import KVCache
from jaxllm.runner.compiler_options import CompilerOptions
from jaxllm.runner.executables import Compiled, Lower
from jaxllm.runner.host_pages import HostPages, lower_host_pages
from jaxllm.runner.pinned_pages import PinnedPages, lower_pinned_pages

Caches = tuple[KVCache, ...]
Moves = Sequence[tuple[int, int]]
"""(from, to): page and host page, or host page and page. None of those written to comes twice."""


class PageSwap(Protocol):
    """Host pages, and the programs that copy to and from them. They work in place: the caches are donated."""

    @property
    def num_pages(self) -> int:
        """Host pages that can be used by now."""
        ...

    def reserve(self) -> None:
        """Starts to take the memory of all host pages, where that takes time; a second call does nothing."""
        ...

    def start(self, programs: Mapping[str, Compiled], caches: Caches) -> Caches:
        """Takes the compiled programs and runs each once; returns the caches."""
        ...

    def save(self, moves: Moves, caches: Caches) -> Caches:
        """Copies (page, host page) before whatever is started later."""
        ...

    def load(self, moves: Moves, caches: Caches) -> Caches:
        """Copies (host page, page) before whatever is started later."""
        ...

    def delete(self) -> None:
        """Frees the programs and the memory."""
        ...


def make_page_swap(num_pages: int, caches: Caches, mesh: Mesh) -> PageSwap:
    """At most `num_pages` host pages for caches of these shapes."""
    if mesh.devices.flat[0].platform == "gpu":
        return PinnedPages(num_pages, caches, mesh)
    return HostPages(num_pages, mesh)


def lower_swaps(caches: Caches, mesh: Mesh, options: CompilerOptions | None) -> dict[str, Lower]:
    """What traces and lowers each program of `PageSwap` for caches of these shapes."""
    lower = lower_pinned_pages if mesh.devices.flat[0].platform == "gpu" else lower_host_pages
    return lower(caches, mesh, options)
