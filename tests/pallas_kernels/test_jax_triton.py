import importlib.util
from types import SimpleNamespace

import jax
import pytest

from jaxllm.errors import DeviceError
from jaxllm.pallas_kernels import jax_triton
from jaxllm.pallas_kernels.paged_attention import api
from jaxllm.pallas_kernels.paged_attention.api import require_backend, require_cache_dtype


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


@pytest.mark.parametrize(
    ("dtype", "platform", "capability"),
    [
        ("float8_e4m3fn", "gpu", 89),
        ("float8_e4m3fn", "gpu", 90),
        ("float8_e5m2", "gpu", 80),
        ("bfloat16", "gpu", 80),
        ("float8_e4m3fn", "cpu", 0),
    ],
)
def test_takes_a_cache_that_the_device_can_read(
    dtype: str, platform: str, capability: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "compute_capability", lambda: capability)
    require_cache_dtype(dtype, platform)


def test_refuses_a_cache_that_an_older_gpu_can_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "compute_capability", lambda: 80)
    with pytest.raises(DeviceError, match=r"needs a GPU of compute capability 8\.9 \(Ada\) or newer.* fp8_e5m2"):
        require_cache_dtype("float8_e4m3fn", "gpu")
