"""/v1/models: the names under which the model is served."""

from __future__ import annotations

from fastapi import APIRouter

from jaxllm.server.context import ServerContext
from jaxllm.server.errors import UnknownModelError
from jaxllm.server.protocol.models import ModelCard, ModelList, ModelPermission


def model_routes(context: ServerContext) -> APIRouter:
    """The endpoints over one engine."""
    router = APIRouter(tags=["models"])
    cards = {name: _card(context, name) for name in context.llm.config.names}

    @router.get("/v1/models")
    async def list_models() -> ModelList:
        """Every name."""
        return ModelList(data=list(cards.values()))

    @router.get("/v1/models/{name:path}")
    async def show_model(name: str) -> ModelCard:
        """One of them."""
        if name not in cards:
            raise UnknownModelError(name, list(cards))
        return cards[name]

    return router


def _card(context: ServerContext, name: str) -> ModelCard:
    return ModelCard(
        id=name,
        created=context.created,
        root=context.llm.config.model,
        max_model_len=context.llm.max_model_len,
        permission=[ModelPermission(id=f"modelperm-{name}", created=context.created)],
    )
