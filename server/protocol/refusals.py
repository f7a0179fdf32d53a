"""Fields of the API that jaxllm knows and can't apply yet: refused by name, never ignored."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel

from jaxllm.errors import ValidationError
from jaxllm.validation import describe

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Refused:
    """Marks a request field: any value but the harmless ones is an error."""

    what: str
    """What the field asks for, as in "tool calls"."""
    harmless: tuple[Any, ...] = (None,)
    """Values that ask for nothing."""

    def allows(self, value: Any) -> bool:
        """Whether the value asks for nothing; 1 is not True here, nor 0 False."""
        return any(type(value) is type(one) and value == one for one in self.harmless)


def refuse_unsupported(request: BaseModel) -> None:
    """Raises for the first field that asks for what jaxllm can't do; unknown fields are logged and ignored."""
    for name, mark in refused_fields(type(request)).items():
        value = getattr(request, name) if name in request.model_fields_set else None
        if value is not None and not mark.allows(value):
            raise ValidationError(f"{name} is not supported yet ({mark.what}), got {describe(value)}", parameter=name)
    if request.model_extra:
        _logger.debug("Ignored unknown fields of a request: %s", sorted(request.model_extra))


@cache
def refused_fields(model: type[BaseModel]) -> dict[str, Refused]:
    """The refused fields of a request model and their marks."""
    marks = {name: _mark(field.metadata) for name, field in model.model_fields.items()}
    return {name: mark for name, mark in marks.items() if mark is not None}


def _mark(metadata: Sequence[Any]) -> Refused | None:
    return next((item for item in metadata if isinstance(item, Refused)), None)
