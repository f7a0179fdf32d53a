"""Qwen3 dense models (Qwen team 2025): Llama with a norm on every query and key head."""

from __future__ import annotations

from jaxllm.models.llama import Llama


class Qwen3(Llama):
    """Llama with query and key norms (plain weights, no offset)."""

    qk_norm_offset = 0.0
