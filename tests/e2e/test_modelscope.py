"""ModelScope instead of Hugging Face, by the variable of vLLM's page "Quickstart": offline and served."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from tests.e2e.server_process import ROOT, ServerProcess
from tests.models.loading.fake_hub import FakeHub, serve_hub
from tests.references.reference import load_reference

REFERENCE = load_reference("llama_gqa")
FILES = {name: (REFERENCE.directory / name).read_bytes() for name in ("config.json", "model.safetensors")}
NUM_TOKENS = 8
PACKAGE = '''"""Stands in for the package modelscope: the same function, over the hub of the test."""

import huggingface_hub


def snapshot_download(model_id, **options):
    return huggingface_hub.snapshot_download(model_id, endpoint={endpoint!r}, **options)
'''
OFFLINE = """
import json, sys
from jaxllm import LLM, SamplingParams

prompt, directory = json.loads(sys.argv[1]), sys.argv[2]
llm = LLM(
    model="jaxllm/tiny", download_dir=directory, skip_tokenizer_init=True, dtype="float32",
    max_num_seqs=8, max_num_batched_tokens=64, max_model_len=96,
)
params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, detokenize=False)
[output] = llm.generate({"prompt_token_ids": prompt}, params)
print(json.dumps(output.outputs[0].token_ids))
"""
SERVER = (
    *("--skip-tokenizer-init", "--dtype", "float32"),
    *("--max-num-seqs", "8", "--max-num-batched-tokens", "64", "--max-model-len", "96"),
)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serve_hub({"jaxllm/tiny": FILES}) as hub:
        yield hub


@pytest.fixture
def environment(hub: FakeHub, tmp_path: Path) -> dict[str, str]:
    """The page's variable, the stand-in where Python finds it, and no way to Hugging Face's hub."""
    (tmp_path / "modelscope.py").write_text(PACKAGE.format(endpoint=hub.endpoint))
    return {
        "VLLM_USE_MODELSCOPE": "True",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}",
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }


def test_offline(hub: FakeHub, environment: dict[str, str], tmp_path: Path) -> None:
    prompt = json.dumps(REFERENCE.prompts[0])
    finished = subprocess.run(
        [sys.executable, "-c", OFFLINE, prompt, str(tmp_path / "hub")],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout.splitlines()[-1]) == REFERENCE.outputs[0][:NUM_TOKENS]
    assert sorted(hub.downloaded) == sorted(FILES)


def test_served(hub: FakeHub, environment: dict[str, str], tmp_path: Path) -> None:
    options = (*SERVER, "--download-dir", str(tmp_path / "hub"))
    with (
        ServerProcess("jaxllm/tiny", tmp_path / "server.log", *options, environment=environment) as server,
        OpenAI(api_key="EMPTY", base_url=server.base_url, max_retries=0) as client,
    ):
        answer = client.completions.create(
            model="jaxllm/tiny",
            prompt=REFERENCE.prompts[0],
            max_tokens=NUM_TOKENS,
            temperature=0,
            extra_body={"return_token_ids": True, "ignore_eos": True},
        )
    assert answer.choices[0].to_dict()["token_ids"] == REFERENCE.outputs[0][:NUM_TOKENS]
    assert sorted(hub.downloaded) == sorted(FILES)
