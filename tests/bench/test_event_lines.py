from __future__ import annotations

import pytest

from jaxllm.bench.event_lines import EventLines

STREAM = b': alive\n\ndata: {"a": 1}\n\nevent: x\r\ndata:{"b": 2}\r\n\r\ndata: [DONE]\n\n'


@pytest.mark.parametrize("size", [1, 2, 7, len(STREAM)])
def test_events_are_whole_however_the_bytes_are_cut(size: int) -> None:
    lines = EventLines()
    pieces = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    assert [line for piece in pieces for line in lines.feed(piece)] == [b'{"a": 1}', b'{"b": 2}', b"[DONE]"]


def test_unfinished_line_is_kept_back() -> None:
    lines = EventLines()
    assert lines.feed(b"data: 1") == []
    assert lines.feed(b"2\n") == [b"12"]
