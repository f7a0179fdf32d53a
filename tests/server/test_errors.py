from __future__ import annotations

import pytest

from jaxllm.errors import EngineDeadError, EngineStalledError, ValidationError
from jaxllm.outputs import CompletionOutput, RequestOutput
from jaxllm.server.errors import describe_error, describe_validation, error_body

PATH = "/v1/completions"


def test_error_object_has_the_forms_of_the_api(client) -> None:
    response = client.post(PATH, {"prompt": "hi", "top_p": 2.0})
    assert response.status_code == 400
    assert response.json() == {
        "error": {
            "message": "top_p must be a finite number from 0.0 to 1.0, got 2.0 (float)",
            "type": "BadRequestError",
            "param": "top_p",
            "code": 400,
        }
    }


def test_field_of_the_wrong_type_is_named(client) -> None:
    response = client.post(PATH, {"prompt": "hi", "logit_bias": {"3": "x"}, "n": []})
    assert response.status_code == 400
    assert response.json()["error"] == {
        "message": (
            "n: Input should be a valid integer, got []; "
            "logit_bias.3: Input should be a valid number, unable to parse string as a number, got 'x'"
        ),
        "type": "Bad Request",
        "param": "n",
        "code": 400,
    }


def test_echo_of_a_wrong_value_is_short(client) -> None:
    message, _ = client.refusal(PATH, {"prompt": "hi", "temperature": "x" * 10_000})
    assert len(message) < 400


def test_deep_value_is_refused_and_not_followed(client) -> None:
    deep: list = []
    for _ in range(300):
        deep = [deep]
    message, parameter = client.refusal(PATH, {"prompt": "hi", "temperature": deep})
    assert parameter == "temperature"
    assert "[[[...]]]" in message


def test_ten_errors_are_told() -> None:
    errors = [{"type": "x", "loc": ("body", f"f{index}"), "msg": "wrong", "input": 1} for index in range(12)]
    message, parameter = describe_validation(errors)
    assert parameter == "f0"
    assert message.count("wrong") == 10
    assert message.endswith("; and 2 more")


@pytest.mark.parametrize(
    "content",
    [b"{", b'{"prompt": }', b"\xff\xfe", b'{"prompt": ' + b"[" * 100_000, b'{"n": ' + b"1" * 5000 + b"}"],
    ids=["open", "empty", "bytes", "deep", "long"],
)
def test_broken_json_is_told(client, content) -> None:
    response = client.request("POST", PATH, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"null"])
def test_body_must_be_an_object(client, content) -> None:
    response = client.request("POST", PATH, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("the body")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_content_type_must_be_json(client, content_type) -> None:
    response = client.request("POST", PATH, content=b"{}", headers={"Content-Type": content_type})
    assert response.status_code == 400
    assert response.json()["error"]["message"] == (
        f"Unsupported Media Type: expected application/json, got {content_type!r}"
    )


def test_content_type_may_tell_its_encoding(client) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    assert client.request("POST", PATH, content=b'{"prompt": "hi"}', headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (rb'{"prompt": "\ud800"}', 400),
        (rb'{"prompt": "hi", "model": "\ud800"}', 404),
        (rb'{"prompt": "hi", "stop": "\ud800"}', 200),
        (rb'{"prompt": "hi", "request_id": "\ud800"}', 200),
        (rb'{"prompt": "hi", "request_id": "\ud800", "stream": true}', 200),
        (rb'{"prompt": "hi", "temperature": "\ud800"}', 400),
    ],
)
def test_lone_surrogate_breaks_nothing(client, content, status) -> None:
    response = client.request("POST", PATH, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == status, response.text


def test_lone_surrogate_comes_back_as_its_escape(client) -> None:
    content = rb'{"prompt": "hi", "request_id": "\ud800"}'
    response = client.request("POST", PATH, content=content, headers={"Content-Type": "application/json"})
    assert response.json()["id"] == "cmpl-\ud800"


def test_lone_surrogate_in_a_message_is_refused(client) -> None:
    content = rb'{"messages": [{"role": "user", "content": [{"type": "text", "text": "\ud800"}]}]}'
    headers = {"Content-Type": "application/json"}
    response = client.request("POST", "/v1/chat/completions", content=content, headers=headers)
    assert response.status_code == 400
    assert "lone surrogate" in response.json()["error"]["message"]


def test_unknown_path_and_method_have_the_same_form(client) -> None:
    assert client.get("/nothing").json()["error"] == {
        "message": "Not Found",
        "type": "NotFoundError",
        "param": None,
        "code": 404,
    }
    assert client.get(PATH).json()["error"]["code"] == 405


def test_unforeseen_error_tells_nothing_of_the_inside(client, monkeypatch) -> None:
    def fail(*arguments, **options) -> None:
        raise RuntimeError("/home/secret at 0x7f00")

    monkeypatch.setattr(client.llm, "generate", fail)
    for stream in (False, True):
        response = client.post(PATH, {"prompt": "hi", "stream": stream})
        assert response.status_code == 500
        assert response.json()["error"] == {
            "message": "internal error; the server's log tells more",
            "type": "InternalServerError",
            "param": None,
            "code": 500,
        }


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValidationError("wrong", parameter="n"), 400),
        (EngineDeadError("Traceback ... /home/secret"), 500),
        (EngineStalledError("slow"), 503),
        (KeyError("secret"), 500),
    ],
)
def test_each_error_has_its_status(error, status) -> None:
    told, body = describe_error(error)
    assert (told, body["error"]["code"]) == (status, status)
    assert "secret" not in body["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_request_that_the_engine_gives_up_is_an_error(client, monkeypatch, stream) -> None:
    async def fail(prompt, params, name, priority):
        failed = CompletionOutput(index=0, text="", token_ids=[], finish_reason="error")
        yield RequestOutput(request_id=name, prompt="hi", prompt_token_ids=[1], outputs=[failed], finished=True)

    monkeypatch.setattr(client.llm, "generate", fail)
    message, _ = client.refusal(PATH, {"prompt": "hi", "stream": stream}, 500)
    assert message == "the engine failed on this request"


def test_addresses_are_left_out() -> None:
    assert error_body(400, "got <x at 0x7f12ab>")["error"]["message"] == "got <x>"


def test_body_over_the_limit_is_refused(start) -> None:
    client = start(config={"max_request_body_size": 100})
    message, _ = client.refusal(PATH, {"prompt": "a" * 100}, 413)
    assert message == "the body must have at most 100 bytes"
    assert client.post(PATH, {"prompt": "hi"}).status_code == 200


def test_body_over_the_limit_is_refused_without_a_length(start) -> None:
    client = start(config={"max_request_body_size": 100})

    async def parts():
        for _ in range(10):
            yield b"a" * 20

    headers = {"Content-Type": "application/json"}
    response = client.request("POST", PATH, content=parts(), headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (413, 413)


def test_unknown_fields_are_ignored(client, caplog) -> None:
    with caplog.at_level("DEBUG", "jaxllm"):
        assert client.complete("hi", no_such_field=1)["choices"][0]["text"] == "hello"
    assert "Ignored unknown fields of a request: ['no_such_field']" in caplog.messages
