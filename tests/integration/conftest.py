"""Engines that several files share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jaxllm.llm import JaxLLM
from tests.integration.helpers import start_glassllm


@pytest.fixture(scope="session")
def glassllm() -> Iterator[JaxLLM]:
    with start_glassllm() as llm:
        yield llm
