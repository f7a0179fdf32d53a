import importlib.util
from types import SimpleNamespace

import jax
import pytest

from jaxllm.errors import DeviceError
from jaxllm.pallas_kernels import jax_triton
from jaxllm.pallas_kernels.paged_attention.api import require_backend


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax_triton, "load_jax_triton", lambda: None)


def put_gpu(monkeypatch: pytest.MonkeyPatch, kind: str, capability: str) -> None:
    gpu = SimpleNamespace(device_kind=kind, compute_capability=capability)
    monkeypatch.setattr(jax, "devices", lambda platform: [gpu])


def test_missing_packages_are_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    jax_triton.load_jax_triton.cache_clear()
    with pytest.raises(
        DeviceError, match=r"not installed: triton, jax-triton\. Install them with: pip install 'jaxllm"
    ):
        require_backend("gpu")


@pytest.mark.usefixtures("installed")
def test_refuses_gpus_before_ampere(monkeypatch: pytest.MonkeyPatch) -> None:
    put_gpu(monkeypatch, "Tesla T4", "7.5")
    with pytest.raises(DeviceError, match=r"need compute capability 8\.0 \(Ampere\) or newer, and 'Tesla T4' has 7\.5"):
        require_backend("gpu")


@pytest.mark.usefixtures("installed")
def test_refuses_gpus_of_other_makers(monkeypatch: pytest.MonkeyPatch) -> None:
    put_gpu(monkeypatch, "AMD Instinct MI300X", "gfx942")
    with pytest.raises(DeviceError, match="run on NVIDIA GPUs, and 'AMD Instinct MI300X' reports"):
        require_backend("gpu")


@pytest.mark.usefixtures("installed")
def test_takes_ampere_and_newer(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability in ("8.0", "8.9", "9.0", "12.0"):
        put_gpu(monkeypatch, "a GPU", capability)
        require_backend("gpu")


def test_platforms_without_kernels_are_refused() -> None:
    with pytest.raises(DeviceError, match=r"no paged attention kernel for platform 'tpu'.*\['cpu', 'gpu'\]"):
        require_backend("tpu")
