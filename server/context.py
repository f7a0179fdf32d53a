"""What the endpoints of one server share."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from starlette.datastructures import Headers

from jaxllm.async_llm import AsyncJaxLLM
from jaxllm.errors import ValidationError
from jaxllm.server.admission import Admission
from jaxllm.server.config import ServerConfig
from jaxllm.server.errors import UnknownModelError
from jaxllm.server.fingerprint import make_fingerprint
from jaxllm.server.logprobs import TokenNames
from jaxllm.server.sampling import SamplingDefaults

PRIORITY_HEADERS = ("X-Jaxllm-Priority", "X-Vllm-Priority")


@dataclass(frozen=True, kw_only=True)
class ServerContext:
    """One engine and how it is served."""

    llm: AsyncJaxLLM
    config: ServerConfig
    admission: Admission
    defaults: SamplingDefaults
    fingerprint: str | None
    created: int = field(default_factory=lambda: int(time.time()))
    """When the server started, in Unix seconds."""

    @classmethod
    def make(cls, llm: AsyncJaxLLM, config: ServerConfig) -> ServerContext:
        """For a server that has just begun."""
        return cls(
            llm=llm,
            config=config,
            admission=Admission(config),
            defaults=SamplingDefaults.make(llm.recommended_sampling, llm.config, llm.max_model_len),
            fingerprint=make_fingerprint(llm.config, config),
        )

    @property
    def model_name(self) -> str:
        """The name in answers."""
        return self.llm.config.names[0]

    def check_model(self, name: str | None) -> None:
        """Raises if the model isn't served here; no name is fine."""
        names = self.llm.config.names
        if name and name not in names and not self.config.skip_model_name_validation:
            raise UnknownModelError(name, names)

    def token_names(self, as_ids: bool | None) -> TokenNames:
        """How a request's tokens are written."""
        wants_ids = self.config.return_tokens_as_token_ids if as_ids is None else as_ids
        return TokenNames(self.llm.tokenizer, as_ids=wants_ids)


def choose_priority(headers: Headers, from_body: int | None) -> int:
    """The header's priority, else the body's, else 0."""
    for name in PRIORITY_HEADERS:
        text = headers.get(name)
        if text is not None:
            try:
                return int(text)
            except ValueError:
                raise ValidationError(f"{name} must be an integer, got {text!r}", parameter="priority") from None
    return from_body or 0
