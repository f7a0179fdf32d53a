from __future__ import annotations

from jaxllm import __version__
from jaxllm.errors import EngineDeadError, EngineStalledError


def test_every_name_has_a_card(start) -> None:
    client = start(served_model_name=["org/one", "two"])
    body = client.get("/v1/models").json()
    assert body["object"] == "list"
    assert [card["id"] for card in body["data"]] == ["org/one", "two"]
    card = body["data"][0]
    assert (card["object"], card["owned_by"], card["root"], card["parent"]) == ("model", "jaxllm", "scripted", None)
    assert card["max_model_len"] == 64
    assert card["permission"][0]["allow_sampling"] is True


def test_one_card_is_found_by_its_name(start) -> None:
    client = start(served_model_name=["org/one"])
    assert client.get("/v1/models/org/one").json()["id"] == "org/one"
    response = client.get("/v1/models/two")
    assert (response.status_code, response.json()["error"]["param"]) == (404, "model")


def test_version_is_told(client) -> None:
    assert client.get("/version").json() == {"version": __version__}


def test_well_server_is_healthy_and_ready(client) -> None:
    for method, path in (("GET", "/health"), ("GET", "/ready"), ("GET", "/ping"), ("POST", "/ping")):
        response = client.request(method, path)
        assert (response.status_code, response.content) == (200, b"")


def test_load_counts_open_requests(client) -> None:
    assert client.get("/load").json() == {"server_load": 0}
    with client.context.admission.enter(5):
        assert client.get("/load").json() == {"server_load": 1}


def test_draining_server_is_healthy_but_not_ready(start) -> None:
    client = start()
    client.context.admission.is_draining = True
    assert client.get("/health").status_code == 200
    assert client.get("/ready").status_code == 503
    response = client.post("/v1/completions", {"prompt": "hi"})
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")


def test_dead_engine_is_neither(start) -> None:
    client = start()
    client.llm.shutdown()
    for path in ("/health", "/ready", "/ping"):
        response = client.get(path)
        assert response.status_code == 503
        assert response.json()["error"]["message"] == "the engine is not well: EngineDeadError"
    assert client.post("/v1/completions", {"prompt": "hi"}).status_code == 500


def test_stalled_engine_is_neither(client, monkeypatch) -> None:
    def stalled() -> None:
        raise EngineStalledError("no step for 400 s")

    monkeypatch.setattr(client.llm, "check_health", stalled)
    assert client.get("/health").status_code == 503
    assert client.get("/ready").status_code == 503


def test_request_that_the_engine_dies_on_gets_an_error(start) -> None:
    client = start()

    def die(step) -> None:
        raise RuntimeError("the device is gone")

    client.llm._built.runner.on_dispatch = die
    response = client.post("/v1/completions", {"prompt": "hi"})
    assert response.status_code == 500
    assert response.json()["error"]["message"] == "the engine is not running any more"
    assert client.llm.is_dead
    assert isinstance(client.llm.dead_error, EngineDeadError)
    assert client.get("/health").status_code == 503


def test_document_describes_the_api_unless_turned_off(client, start) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/completions", "/v1/chat/completions", "/v1/models", "/tokenize", "/detokenize"} <= set(paths)
    assert client.get("/docs").status_code == 200
    quiet = start(config={"disable_fastapi_docs": True})
    assert [quiet.get(path).status_code for path in ("/docs", "/redoc", "/openapi.json")] == [404] * 3
