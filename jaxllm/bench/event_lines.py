"""The data of server-sent events, cut out of a byte stream."""

from __future__ import annotations

DONE = b"[DONE]"
"""Data of the last event of a stream in OpenAI's protocol."""


class EventLines:
    """Collects bytes as they come and gives the data of each event that is whole.

    Each event of OpenAI's protocol is one `data:` line; comments and other fields are left out.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The data lines that these bytes complete."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]
