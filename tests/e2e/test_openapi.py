"""Requests made from the server's own OpenAPI document, valid ones and wrong ones: none of them breaks the server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.schemas import BaseSchema

from tests.e2e.fault_server import AUTHORIZATION, ENGINE, KEYS
from tests.e2e.server_process import ServerProcess
from tests.integration.helpers import needs_glassllm

pytestmark = needs_glassllm

# The limit keeps requests for thousands of completions from taking their time.
OPTIONS = (*ENGINE, "--max-num-queued-reqs", "16", "--chat-template", "./examples/template_chatml.jinja")
READS = [
    *(("/v1/models", "get"), ("/v1/models/{name}", "get"), ("/health", "get"), ("/ready", "get"), ("/ping", "get")),
    *(("/ping", "post"), ("/version", "get"), ("/load", "get"), ("/metrics", "get")),
]
WRITES = {
    ("/v1/completions", "post"): {"prompt": "Once"},
    ("/v1/chat/completions", "post"): {"messages": [{"role": "user", "content": "Hi"}]},
    ("/tokenize", "post"): {"prompt": "Once"},
    ("/detokenize", "post"): {"tokens": [1, 2]},
}
"""Operations with a body, and what makes a good one."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    log_path = tmp_path_factory.mktemp("openapi") / "server.log"
    with ServerProcess("glassllm-en", log_path, *OPTIONS, "--api-key", *KEYS, "--public-metrics") as process:
        yield process


@pytest.fixture(scope="module")
def document(server: ServerProcess) -> BaseSchema:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json", headers=AUTHORIZATION)


def tried(num_cases: int) -> settings:
    """The same cases in every run."""
    return settings(
        max_examples=num_cases,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def mostly_good(draw: st.DrawFn, cases: st.SearchStrategy[Case], good: dict[str, Any]) -> Case:
    """Keeps few of a body's many fields, as with all of them one is refused nearly always and hides the others."""
    case: Any = draw(cases)
    names = sorted(case.body.keys() - {*good, "model"})
    kept = draw(st.lists(st.sampled_from(names), max_size=2, unique=True)) if names else []
    needed = draw(st.sampled_from([case.body, good, good]))
    case.body = {name: needed[name] for name in good if name in needed} | {name: case.body[name] for name in kept}
    return case


def statuses(server: ServerProcess, cases: st.SearchStrategy[Case], num_cases: int) -> list[int]:
    """What requests are answered with; fails at the first answer that says the server is at fault."""
    found: list[int] = []

    @tried(num_cases)
    @given(case=cases)
    def ask(case: Case) -> None:
        response = case.call(base_url=server.url, headers=AUTHORIZATION, timeout=60)
        found.append(response.status_code)
        assert response.status_code < 500, (case.as_curl_command(), response.text)

    ask()
    return found


def test_every_operation_is_tried(document: BaseSchema) -> None:
    results: Any = document.get_all_operations()
    operations = [result.ok() for result in results]
    assert {(one.path, one.method) for one in operations} == {*READS, *WRITES}


@pytest.mark.parametrize(("path", "method"), READS)
def test_reads(server: ServerProcess, document: BaseSchema, path: str, method: str) -> None:
    assert statuses(server, document[path][method].as_strategy(), 10)


@pytest.mark.parametrize(("operation", "good"), WRITES.items())
def test_bodies_by_the_document(
    server: ServerProcess, document: BaseSchema, operation: tuple[str, str], good: dict[str, Any]
) -> None:
    path, method = operation
    found = statuses(server, mostly_good(document[path][method].as_strategy(), good), 100)
    assert found.count(200) >= 10


@pytest.mark.parametrize(("path", "method"), WRITES)
def test_wrong_bodies(server: ServerProcess, document: BaseSchema, path: str, method: str) -> None:
    cases = document[path][method].as_strategy(GenerationMode.NEGATIVE)
    assert 400 in statuses(server, cases, 40)


def test_nothing_went_wrong_within(server: ServerProcess) -> None:
    server.wait_until_idle()
    assert "Traceback" not in server.log
