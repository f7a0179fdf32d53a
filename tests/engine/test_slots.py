from jaxllm.engine.request import Request
from jaxllm.engine.slots import SlotPool
from tests.engine.helpers import make_internal, make_request


def one(beam_width: int | None) -> Request:
    return make_internal(make_request("r", [1], beam_width=beam_width))


def test_the_lowest_slots_are_taken() -> None:
    slots, first, second, third = SlotPool(6), one(None), one(3), one(None)
    for request in (first, second, third):
        slots.take(request)
    assert (first.slot, first.extra_slots) == (0, [])
    assert (second.slot, second.extra_slots) == (1, [2, 3])
    assert third.slot == 4
    assert slots.num_taken == 5


def test_slots_that_came_back_are_taken_again() -> None:
    slots, search, request = SlotPool(4), one(3), one(None)
    slots.take(search)
    slots.give_back(search)
    assert (search.slot, search.extra_slots, slots.num_taken) == (None, [], 0)
    slots.take(request)
    assert request.slot == 0
