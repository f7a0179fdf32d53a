"""The slots of the device-resident state, of which each running request takes as many as it may have rows in a step."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from jaxllm.engine.request import Request


class SlotPool:
    """Gives out the lowest free slots."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.free = list(range(num_slots))
        """A heap."""
        heapify(self.free)

    @property
    def num_taken(self) -> int:
        """Slots that running requests hold."""
        return self.num_slots - len(self.free)

    def take(self, request: Request) -> None:
        """Gives the request its slots; there must be enough."""
        request.slot = heappop(self.free)
        request.extra_slots = [heappop(self.free) for _ in range(request.num_slots - 1)]

    def give_back(self, request: Request) -> None:
        """Takes the request's slots back."""
        assert request.slot is not None, f"request {request.request_id} has no slot"
        for slot in (request.slot, *request.extra_slots):
            heappush(self.free, slot)
        request.slot, request.extra_slots = None, []
