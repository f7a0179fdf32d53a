"""The shape of the project: links, packaging, cheap imports, and the files that newcomers start from."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import jaxllm

ROOT = Path(__file__).resolve().parent.parent
LINKED = ("models", "pallas_kernels", "server")
SOURCES = ("jaxllm", *LINKED, "pyproject.toml", "README.md", "LICENSE")
HEAVY = ("jax", "jaxlib", "flax", "transformers", "tokenizers", "huggingface_hub", "orbax", "numpy")


def run_python(*arguments: str, cwd: Path = ROOT) -> str:
    """Standard output of a fresh Python; its PYTHONPATH makes jaxllm importable even when it isn't installed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    finished = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, built from a copy so that the work tree stays clean."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        copy_source(ROOT / name, source / name)
    built = tmp_path_factory.mktemp("built")
    for hook in ("build_wheel", "build_sdist"):
        program = f"from setuptools import build_meta; build_meta.{hook}({str(built)!r})"
        run_python("-W", "ignore", "-c", program, cwd=source)
    return built


def copy_source(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def python_files() -> set[str]:
    """Every module of the source tree, as a path inside the installed package."""
    return {
        path.relative_to(ROOT).as_posix()
        for folder in (ROOT / "jaxllm", *(ROOT / "jaxllm" / name for name in LINKED))
        for path in folder.rglob("*.py")
    }


@pytest.mark.parametrize("name", LINKED)
def test_package_is_a_relative_link_to_the_top_level_folder(name: str) -> None:
    assert os.readlink(ROOT / "jaxllm" / name) == f"../{name}"


@pytest.mark.parametrize("name", LINKED)
def test_git_keeps_the_package_as_a_link(name: str) -> None:
    listing = subprocess.run(
        ["git", "ls-files", "--stage", f"jaxllm/{name}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert listing.stdout.split()[0] == "120000"


def test_wheel_installs_jaxllm_alone(distributions: Path) -> None:
    [wheel] = distributions.glob("*.whl")
    top_level = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert top_level == {"jaxllm", f"jaxllm-{jaxllm.__version__}.dist-info"}


def test_wheel_holds_every_module_and_the_type_marker(distributions: Path) -> None:
    [wheel] = distributions.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if name.endswith(".py")} == python_files()
    assert "jaxllm/py.typed" in names


def test_sdist_holds_every_module_as_a_file(distributions: Path) -> None:
    [sdist] = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        prefix = f"jaxllm-{jaxllm.__version__}/"
        files = {member.name.removeprefix(prefix) for member in archive if not member.isdir()}
        links = [member.name for member in archive if member.issym()]
    assert {name for name in files if name.startswith("jaxllm/") and name.endswith(".py")} == python_files()
    assert links == []


def test_wheel_installs_the_command(distributions: Path) -> None:
    [wheel] = distributions.glob("*.whl")
    command = zipfile.ZipFile(wheel).read(f"jaxllm-{jaxllm.__version__}.dist-info/entry_points.txt").decode()
    assert "jaxllm = jaxllm.cli.app:main" in command


def test_public_names_are_the_ones_declared_for_type_checkers() -> None:
    tree = ast.parse((ROOT / "jaxllm" / "__init__.py").read_text(encoding="utf-8"))
    declared = {
        alias.asname: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert declared == jaxllm._MODULE_OF_NAME


@pytest.mark.parametrize("name", sorted(jaxllm._MODULE_OF_NAME))
def test_public_name_is_what_its_module_defines(name: str) -> None:
    assert getattr(jaxllm, name) is getattr(importlib.import_module(jaxllm._MODULE_OF_NAME[name]), name)


def test_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'jaxllm' has no attribute 'Nothing'"):
        _ = jaxllm.Nothing


def test_dir_lists_public_names() -> None:
    assert {"JaxLLM", "SamplingParams", "__version__"} <= set(dir(jaxllm))


@pytest.mark.parametrize("module", ["jaxllm", "jaxllm.cli.app"])
def test_import_loads_nothing_heavy(module: str) -> None:
    program = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert run_python("-c", program) == "[]\n"


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys, jaxllm.cli.app as app\n"
        "try: app.app(['bench', '--help'])\n"
        f"finally: print([name for name in {(*HEAVY, 'rich')!r} if name in sys.modules])"
    )
    output = run_python("-c", program)
    assert output.splitlines()[-1] == "[]"
    assert "throughput" in output


def test_version_comes_from_the_command_line() -> None:
    assert run_python("-m", "jaxllm", "--version") == f"{jaxllm.__version__}\n"


def test_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text


def test_readme_shows_the_quick_start_that_make_demo_runs() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example, *others = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    for other in others:
        compile(other, "README.md", "exec")
    quickstart = (ROOT / "examples" / "quickstart.py").read_text(encoding="utf-8")
    for line in example.splitlines():
        assert line.strip() in quickstart


NUM_PARAMETERS = {
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "qwen3-8b": 8_190_735_360,
    "gemma-3-4b": 3_880_263_168,
}


@pytest.mark.parametrize(("name", "expected"), NUM_PARAMETERS.items())
def test_benchmark_config_has_the_published_number_of_parameters(name: str, expected: int) -> None:
    config = json.loads((ROOT / "benchmarks" / "configs" / name / "config.json").read_text(encoding="utf-8"))
    assert num_parameters(config) == expected


def num_parameters(config: dict[str, int | bool | str]) -> int:
    """Weights of a dense decoder: projections and MLP, norms, embeddings and, if not tied, the output matrix."""
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    head_dim = int(config.get("head_dim", hidden // heads))
    attention = 2 * hidden * head_dim * (heads + int(config["num_key_value_heads"]))
    mlp = 3 * hidden * int(config["intermediate_size"])
    norms = {"llama": 2 * hidden, "qwen3": 2 * hidden + 2 * head_dim, "gemma3_text": 4 * hidden + 2 * head_dim}
    layers = int(config["num_hidden_layers"]) * (attention + mlp + norms[str(config["model_type"])])
    embeddings = int(config["vocab_size"]) * hidden * (1 if config["tie_word_embeddings"] else 2)
    return layers + hidden + embeddings
