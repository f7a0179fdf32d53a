"""A client that does to its connection what well-behaved ones don't."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any, Self

TIMEOUT_SECONDS = 60.0


class RawClient:
    """One connection; bytes go out and come in as the test says."""

    def __init__(self, address: tuple[str, int], *, receive_buffer: int | None = None) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(TIMEOUT_SECONDS)
        self._socket.connect(address)
        self.received = b""
        """All that came so far."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def send(self, data: bytes) -> None:
        """Sends bytes as they are."""
        self._socket.sendall(data)

    def send_until_refused(self, data: bytes, *, at_most: int) -> int:
        """Sends the same again and again until the other side ends the connection; how often it went."""
        for count in range(at_most):
            try:
                self.send(data)
            except ConnectionError:
                return count
        return at_most

    def read(self, count: int = 65536) -> bytes:
        """What came, at most `count` bytes; nothing at the end."""
        data = self._socket.recv(count)
        self.received += data
        return data

    def read_answer(self) -> tuple[int, bytes]:
        """Status and body of an answer that tells its length, or ends with the connection."""
        while (head_end := self.received.find(b"\r\n\r\n")) < 0 and self.read():
            pass
        assert head_end >= 0, f"the connection ended after {self.received!r}"
        head, start = self.received[:head_end].lower(), head_end + 4
        status = int(head.split(b" ", 2)[1])
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), None)
        while (length is None or len(self.received) - start < length) and self.read():
            pass
        return status, self.received[start:]

    def read_until(self, mark: bytes) -> None:
        """Reads on until the mark has come."""
        while mark not in self.received:
            assert self.read(), f"the connection ended after {self.received[-300:]!r}"

    def close(self) -> None:
        """Ends the connection as a program that exits does."""
        self._socket.close()

    def kill(self) -> None:
        """Ends the connection as a machine that vanishes does: with a reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


def http_post(path: str, body: bytes | Mapping[str, Any], **headers: str) -> bytes:
    """The bytes of a request; an underscore in a header's name stands for a dash."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Host": "test", "Content-Type": "application/json", "Content-Length": str(len(data))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + data
