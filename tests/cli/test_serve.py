from __future__ import annotations

import sys
from typing import Any

import pytest

from jaxllm.cli.app import main
from jaxllm.config import EngineConfig
from jaxllm.server import run as run_module
from jaxllm.server.config import ServerConfig


class Started:
    """Stands in for the server, and keeps what it was started with."""

    engine: EngineConfig
    server: ServerConfig
    status = 0

    def __call__(self, engine: EngineConfig, server: ServerConfig) -> int:
        self.engine, self.server = engine, server
        return self.status


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    for name in ("JAXLLM_API_KEY", "VLLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    fake = Started()
    monkeypatch.setattr(run_module, "serve", fake)
    return fake


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    """The exit status of `jaxllm serve`."""
    monkeypatch.setattr(sys, "argv", ["jaxllm", "serve", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code


def test_model_and_flags_reach_engine_and_server(started, monkeypatch) -> None:
    assert run(monkeypatch, "glassllm-en", "--dtype", "float32", "--port", "0", "--host", "127.0.0.1") == 0
    assert (started.engine.model, started.engine.dtype) == ("glassllm-en", "float32")
    assert (started.server.host, started.server.port) == ("127.0.0.1", 0)


def test_defaults_are_those_of_a_server(started, monkeypatch) -> None:
    run(monkeypatch)
    assert started.engine.model == "smollm2-135m"
    assert started.engine.disable_log_stats is False
    assert started.server == ServerConfig()


def test_exit_status_is_the_servers(started, monkeypatch) -> None:
    started.status = 1
    assert run(monkeypatch) == 1


def test_several_values_follow_one_flag(started, monkeypatch) -> None:
    run(monkeypatch, "--api-key", "one", "two", "--served-model-name", "a", "b")
    assert started.server.api_keys == ("one", "two")
    assert started.engine.served_model_name == ("a", "b")


def test_lists_come_as_json_or_with_commas(started, monkeypatch) -> None:
    run(monkeypatch, "--allowed-origins", '["http://a", "http://b"]', "--disable-access-log-for-endpoints", "/x,/y")
    assert started.server.allowed_origins == ("http://a", "http://b")
    assert started.server.disable_access_log_for_endpoints == ("/x", "/y")


def test_keys_with_commas_stay_whole(started, monkeypatch) -> None:
    run(monkeypatch, "--api-key", "one,two")
    assert started.server.api_keys == ("one,two",)


@pytest.mark.parametrize(
    ("environment", "arguments", "keys"),
    [
        ({"VLLM_API_KEY": "v"}, (), ("v",)),
        ({"VLLM_API_KEY": "v", "JAXLLM_API_KEY": "j"}, (), ("j",)),
        ({"JAXLLM_API_KEY": "j"}, ("--api-key", "flag"), ("flag",)),
    ],
)
def test_key_comes_from_the_environment_unless_given(started, monkeypatch, environment, arguments, keys) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    run(monkeypatch, *arguments)
    assert started.server.api_keys == keys


def test_environment_turns_checks_off(started, monkeypatch) -> None:
    monkeypatch.setenv("VLLM_SKIP_MODEL_NAME_VALIDATION", "1")
    monkeypatch.setenv("JAXLLM_KEEP_ALIVE_ON_ENGINE_DEATH", "0")
    run(monkeypatch)
    assert started.server.skip_model_name_validation is True
    assert started.server.keep_alive_on_engine_death is False


def test_mappings_and_switches_are_understood(started, monkeypatch) -> None:
    run(monkeypatch, "--default-chat-template-kwargs.enable_thinking", "false", "--vllm-metric-names")
    assert started.server.default_chat_template_kwargs == {"enable_thinking": False}
    assert started.server.vllm_metric_names is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--enable-auto-tool-choice",), "--enable-auto-tool-choice is not supported yet, got True"),
        (("--tool-call-parser", "hermes"), "--tool-call-parser is not supported yet, got 'hermes'"),
        (("--api-server-count", "2"), "--api-server-count is not supported yet, got 2"),
        (("--headless",), "--headless is not supported yet, got True"),
        (("--reasoning-parser", "qwen3"), "reasoning_parser is not supported yet"),
        (("--enable-lora",), "enable_lora is not supported yet"),
    ],
)
def test_flag_of_an_unsupported_feature_is_refused_by_name(started, monkeypatch, capsys, arguments, message) -> None:
    assert run(monkeypatch, *arguments) == 1
    assert message in capsys.readouterr().err
    assert not hasattr(started, "engine")


def test_harmless_flags_of_vllm_pass(started, monkeypatch) -> None:
    arguments = ("--api-server-count", "1", "--disable-log-requests", "--enable-server-load-tracking", "--no-headless")
    assert run(monkeypatch, *arguments) == 0


def test_wrong_value_ends_before_the_model_loads(started, monkeypatch, capsys) -> None:
    assert run(monkeypatch, "--fingerprint-mode", "some") == 1
    assert "fingerprint_mode must be one of" in capsys.readouterr().err
