"""Bodies of /v1/models."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ModelPermission(BaseModel):
    """What may be done with a model; old clients read it."""

    id: str
    object: str = "model_permission"
    created: int
    allow_create_engine: bool = False
    allow_sampling: bool = True
    allow_logprobs: bool = True
    allow_search_indices: bool = False
    allow_view: bool = True
    allow_fine_tuning: bool = False
    organization: str = "*"
    group: str | None = None
    is_blocking: bool = False


class ModelCard(BaseModel):
    """A name under which the model is served."""

    model_config = ConfigDict(protected_namespaces=())

    id: str
    object: str = "model"
    created: int
    owned_by: str = "jaxllm"
    root: str
    parent: str | None = None
    max_model_len: int
    permission: list[ModelPermission]


class ModelList(BaseModel):
    """All names."""

    object: str = "list"
    data: list[ModelCard]
