"""The vocabulary of a model that a server runs: its size, and its tokenizer where prompts need one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from jaxllm.errors import JaxLLMError, ValidationError
from jaxllm.models.loading.checkpoint import read_hf_config
from jaxllm.models.loading.source import ModelSource, resolve_model

if TYPE_CHECKING:
    from jaxllm.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class ServedVocabulary:
    """Found by a model's name or directory, without its weights."""

    name: str
    tokenizer_mode: str = "auto"
    trust_remote_code: bool = False

    @cached_property
    def size(self) -> int:
        """Every token id is below this."""
        config = read_hf_config(self._source)
        size = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
        if not isinstance(size, int):
            raise ValidationError(f"the configuration of {self.name} has no vocab_size", parameter="tokenizer")
        return size

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, loaded when first asked for."""
        from jaxllm.text.load_tokenizer import load_tokenizer

        return load_tokenizer(
            self._source.path,
            kind="gguf" if self._source.kind == "gguf" else "hf",
            trust_remote_code=self.trust_remote_code,
            tokenizer_mode=self.tokenizer_mode,
        )

    def count(self, text: str) -> int:
        """Tokens of an answer."""
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    @property
    def is_loaded(self) -> bool:
        """Whether anything asked for the tokenizer."""
        return "tokenizer" in self.__dict__

    @cached_property
    def _source(self) -> ModelSource:
        try:
            return resolve_model(self.name, wants_weights=False)
        except JaxLLMError as error:
            raise ValidationError(
                f"prompts need the model's vocabulary, and {self.name!r} can't be found: "
                f"name it with --tokenizer. {error}",
                parameter="tokenizer",
            ) from error
