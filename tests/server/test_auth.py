from __future__ import annotations

import pytest

OPEN = ("/health", "/ready", "/ping", "/version")
GUARDED = ("/v1/models", "/metrics", "/load", "/docs", "/redoc", "/openapi.json", "/nothing")


@pytest.fixture
def guarded(start):
    return start(config={"api_keys": ("first", "second")})


@pytest.mark.parametrize("path", GUARDED)
def test_route_needs_a_key(guarded, path) -> None:
    response = guarded.get(path)
    assert (response.status_code, response.json()) == (401, {"error": "Unauthorized"})
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"])
def test_posting_needs_a_key(guarded, path) -> None:
    assert guarded.post(path, {}).status_code == 401


@pytest.mark.parametrize("path", OPEN)
def test_health_is_open(guarded, path) -> None:
    assert guarded.get(path).status_code == 200


@pytest.mark.parametrize("key", ["first", "second"])
def test_each_key_opens(guarded, key) -> None:
    assert guarded.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert guarded.get("/v1/models", headers={"Authorization": f"bearer  {key}"}).status_code == 200


@pytest.mark.parametrize("header", ["first", "Basic first", "Bearer", "Bearer ", "Bearer firs", "Bearer second2"])
def test_wrong_key_does_not_open(guarded, header) -> None:
    assert guarded.get("/v1/models", headers={"Authorization": header}).status_code == 401


def test_key_that_is_no_ascii_does_not_open(guarded) -> None:
    assert guarded.get("/v1/models", headers={"Authorization": b"Bearer \xff\xfe"}).status_code == 401


def test_key_may_be_more_than_ascii(start) -> None:
    client = start(config={"api_keys": ("schlüssel",)})
    headers = {"Authorization": "Bearer schlüssel".encode()}
    assert client.get("/v1/models", headers=headers).status_code == 200


def test_preflight_request_needs_no_key(start) -> None:
    client = start(config={"api_keys": ("first",), "allowed_origins": ("http://page",)})
    headers = {"Origin": "http://page", "Access-Control-Request-Method": "POST"}
    response = client.request("OPTIONS", "/v1/completions", headers=headers)
    assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, "http://page")


def test_metrics_can_be_public(start) -> None:
    client = start(config={"api_keys": ("first",), "public_metrics": True})
    assert client.get("/metrics").status_code == 200
    assert client.get("/v1/models").status_code == 401


def test_prefix_of_a_proxy_changes_nothing(start) -> None:
    client = start(config={"api_keys": ("first",), "root_path": "/llm"})
    assert client.get("/llm/health").status_code == 200
    assert client.get("/health").status_code == 200
    assert client.get("/llm/v1/models").status_code == 401
    assert client.get("/v1/models").status_code == 401
    assert client.get("/llm/v1/models", headers={"Authorization": "Bearer first"}).status_code == 200


def test_without_keys_everyone_may_ask(client) -> None:
    assert client.get("/v1/models").status_code == 200
