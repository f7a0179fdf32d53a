"""Servers in processes of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

ROOT = Path(__file__).resolve().parents[2]
_SERVING = re.compile(r"Serving .* on (\S+)$")


class ServerProcess:
    """A server program; its end is waited for, and forced if it doesn't come."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        inherited = {name: value for name, value in os.environ.items() if name != "JAXLLM_CONFIGURE_LOGGING"}
        self.lines: list[str] = []
        """What it has written so far."""
        self.address = ""
        self._is_serving = threading.Event()
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**inherited, "PYTHONPATH": str(ROOT), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    @property
    def cpu_seconds(self) -> float:
        """Processor time so far, of all threads."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def wait_until_serving(self) -> None:
        assert self._is_serving.wait(120), self.output
        assert self.address, self.output

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """The exit status."""
        status = self._process.wait(60)
        self._reader.join()
        return status

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.address, timeout=60, trust_env=False, **options)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip())
            match = _SERVING.search(line.rstrip())
            if match:
                self.address = match.group(1)
                self._is_serving.set()
        self._is_serving.set()


def scripted_server(kind: str, **config: Any) -> ServerProcess:
    """`tests/server/scripted_server.py`."""
    return ServerProcess("-m", "tests.server.scripted_server", kind, json.dumps(config))
