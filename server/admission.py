"""Which requests are taken: none while the server stops, and no more than its limits allow."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from jaxllm.errors import ValidationError
from jaxllm.server.config import ServerConfig
from jaxllm.server.errors import UnavailableError


class Ticket:
    """One admitted request, for as long as it is open."""

    def __init__(self, admission: Admission, num_sequences: int) -> None:
        self._admission = admission
        self.num_sequences = num_sequences
        self.num_tokens = 0

    def count_tokens(self, num_tokens: int) -> None:
        """Says how long the prompts are, as soon as that is known; raises if the server has enough to read."""
        self._admission.check_tokens()
        self.num_tokens = num_tokens
        self._admission.num_tokens += num_tokens


class Admission:
    """Counts open requests. Used on the event loop only."""

    def __init__(self, config: ServerConfig) -> None:
        self._max_sequences = config.max_num_queued_reqs
        self._max_tokens = config.max_num_queued_tokens
        self.is_draining = False
        """Whether the server stops, and takes nothing new."""
        self.num_requests = 0
        """HTTP requests that generate."""
        self.num_sequences = 0
        """Sequences that they asked for."""
        self.num_tokens = 0
        """Tokens of their prompts."""
        self.engine_names: set[str] = set()
        """What the engine calls the requests that it runs for them."""
        self.rejections: Counter[str] = Counter()
        """Requests that were refused, by reason."""
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @contextmanager
    def enter(self, num_sequences: int) -> Iterator[Ticket]:
        """Admits a request that asks for this many completions, until the block ends."""
        self._check(num_sequences)
        ticket = Ticket(self, num_sequences)
        self.num_requests += 1
        self._is_idle.clear()
        self.num_sequences += num_sequences
        try:
            yield ticket
        finally:
            self.num_requests -= 1
            self.num_sequences -= num_sequences
            self.num_tokens -= ticket.num_tokens
            if self.num_requests == 0:
                self._is_idle.set()

    async def wait_until_idle(self, timeout: float) -> bool:
        """Waits until no request is open; False if some still are after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._is_idle.wait()
        except TimeoutError:
            return False
        return True

    def check_tokens(self) -> None:
        """Raises while open requests have as many prompt tokens as the server takes."""
        limit = self._max_tokens
        if limit is not None and self.num_tokens >= limit:
            self._reject("tokens", f"open requests have {self.num_tokens} prompt tokens, and {limit} is the limit")

    def _check(self, num_sequences: int) -> None:
        if self.is_draining:
            self._reject("draining", "the server is shutting down")
        limit = self._max_sequences
        if limit is not None and num_sequences > limit:
            raise ValidationError(
                f"a request may ask for at most {limit} completions of all its prompts here, got {num_sequences}",
                parameter="n",
            )
        if limit is not None and self.num_sequences + num_sequences > limit:
            self._reject("requests", f"{self.num_sequences} completions are being worked on, and {limit} is the limit")
        self.check_tokens()

    def _reject(self, reason: str, message: str) -> None:
        self.rejections[reason] += 1
        raise UnavailableError(f"{message}; try again later")
