"""`jaxllm serve` as a process of its own, for tests that need what users start."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 180.0
STOP_SECONDS = 60.0
_SERVING = re.compile(r"Serving .* on http://(\S+):(\d+)")
_NOT_THE_CHILDS = ("JAXLLM_CONFIGURE_LOGGING", "JAXLLM_API_KEY", "VLLM_API_KEY")


class ServerProcess:
    """A server on a free port of the loopback address; leaving the block stops it, whatever happened.

    The log goes to a file, and into the message of whatever goes wrong here.
    """

    def __init__(
        self, model: str, log_path: Path, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.model = model
        self._log_path = log_path
        self._arguments = arguments
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._address: tuple[str, int] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Starts the process and waits until it serves."""
        inherited = {name: value for name, value in os.environ.items() if name not in _NOT_THE_CHILDS}
        command = [sys.executable, "-m", "jaxllm", "serve", self.model, "--host", "127.0.0.1", "--port", "0"]
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, *self._arguments],
                cwd=ROOT,
                env={**inherited, "PYTHONPATH": str(ROOT), **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_until_serving()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Ends the process, with force if it doesn't go."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def signal(self, number: int) -> None:
        """Sends a signal."""
        self._running.send_signal(number)

    def wait(self, timeout: float = STOP_SECONDS) -> int:
        """The exit status, once there is one; negative if a signal ended the process."""
        try:
            return self._running.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the server runs on after {timeout} s; its log:\n{self.log}") from None

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self._running.poll() is None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, for sockets."""
        assert self._address is not None, "the server was not started"
        return self._address

    @property
    def url(self) -> str:
        """Where the server is, without a slash at the end."""
        host, port = self.address
        return f"http://{host}:{port}"

    @property
    def base_url(self) -> str:
        """What OpenAI clients want."""
        return f"{self.url}/v1"

    @property
    def log(self) -> str:
        """All that the process has written."""
        return self._log_path.read_text(errors="replace")

    @property
    def cpu_seconds(self) -> float:
        """Processor time of all threads so far; Linux only."""
        fields = Path(f"/proc/{self._running.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def resident_bytes(self) -> int:
        """Memory that the process occupies; Linux only."""
        pages = Path(f"/proc/{self._running.pid}/statm").read_text().split()[1]
        return int(pages) * resource.getpagesize()

    @property
    def num_open_files(self) -> int:
        """Open files and connections; Linux only."""
        return len(os.listdir(f"/proc/{self._running.pid}/fd"))

    def status(self, path: str, headers: Mapping[str, str] | None = None) -> int:
        """The status of a GET."""
        request = urllib.request.Request(self.url + path, headers=dict(headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def metric(self, name: str, **labels: str) -> float:
        """The value of the first sample of this name with these labels."""
        from prometheus_client.parser import text_string_to_metric_families

        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as response:
            families = text_string_to_metric_families(response.read().decode())
        for family in families:
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return float(sample.value)
        raise AssertionError(f"/metrics has no {name} with {labels}")

    def wait_until_idle(self, timeout: float = 60.0) -> None:
        """Waits until no request runs or waits and the cache holds nothing that is in use."""
        names = ("jaxllm:num_requests_running", "jaxllm:num_requests_waiting", "jaxllm:kv_cache_usage_perc")
        deadline = time.monotonic() + timeout
        while any(values := [self.metric(name) for name in names]):
            assert time.monotonic() < deadline, f"still {values} of {names} after {timeout} s; the log:\n{self.log}"
            time.sleep(0.05)

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the server was not started"
        return self._process

    def _wait_until_serving(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while (match := _SERVING.search(self.log)) is None:
            assert self.is_running, f"the server ended with status {self._running.returncode}; its log:\n{self.log}"
            assert time.monotonic() < deadline, f"no server after {START_SECONDS} s; its log:\n{self.log}"
            time.sleep(0.05)
        self._address = (match[1], int(match[2]))
