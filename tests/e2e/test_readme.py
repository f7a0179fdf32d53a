"""The quick starts of the README, as printed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from tests.e2e.server_process import ROOT, ServerProcess
from tests.integration.helpers import needs_smollm2

README = (ROOT / "README.md").read_text(encoding="utf-8")
OFFLINE, LATER, _ASYNC, BEAMS, CLIENT = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
[CURL] = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
IMPORTS = "from jaxllm import BeamSearchParams\n"


def run_python(program: str) -> str:
    """Standard output of a program."""
    command = [sys.executable, "-c", program]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@needs_smollm2
@pytest.mark.slow
def test_offline_quick_starts_run():
    output = run_python("\n".join([OFFLINE, LATER, IMPORTS, BEAMS]))
    assert re.findall(r"^Prompt: '(.*?)', Generated text: ", output, flags=re.MULTILINE) == [
        "Hello, my name is",
        "The president of the United States is",
        "The capital of France is",
        "The future of AI is",
    ]
    assert len(re.findall(r"^-[0-9.]+ .*Once upon a time", output, flags=re.MULTILINE)) == 5


def test_server_is_started_as_the_shared_one_is():
    assert "\n    jaxllm serve smollm2-135m\n" in README


def test_curl_asks_the_server(smollm2_server: ServerProcess):
    if shutil.which("curl") is None:
        pytest.skip("needs the program curl")
    command = CURL.replace("http://localhost:8000", smollm2_server.url)
    answer = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, timeout=120).stdout
    assert '"object":"chat.completion"' in answer


def test_openai_client_asks_the_server(smollm2_server: ServerProcess):
    assert run_python(CLIENT.replace("http://localhost:8000", smollm2_server.url)).strip()
