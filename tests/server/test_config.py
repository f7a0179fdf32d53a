from __future__ import annotations

from typing import Any

import pytest

from jaxllm.errors import ValidationError
from jaxllm.server.config import ServerConfig


def test_defaults_hold() -> None:
    config = ServerConfig()
    assert (config.host, config.port, config.api_keys, config.is_tls) == (None, 8000, (), False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"port": 65536}, "port must be an integer from 0 to 65535, got 65536"),
        ({"root_path": "v"}, "root_path must be a path that starts with / and doesn't end with it, got 'v'"),
        ({"root_path": "/v/"}, "root_path must be a path that starts with / and doesn't end with it"),
        ({"ssl_keyfile": "k"}, "ssl_certfile is needed with ssl_keyfile and ssl_ca_certs"),
        ({"ssl_cert_reqs": 3}, "ssl_cert_reqs must be an integer from 0 to 2"),
        ({"enable_log_outputs": True}, "enable_log_outputs needs enable_log_requests"),
        ({"fingerprint_mode": "custom"}, "fingerprint_value and fingerprint_mode 'custom' need each other"),
        ({"fingerprint_value": "x"}, "fingerprint_value and fingerprint_mode 'custom' need each other"),
        ({"fingerprint_mode": "some"}, "fingerprint_mode must be one of 'full', 'hash', 'custom', 'none'"),
        ({"max_num_queued_reqs": 0}, "max_num_queued_reqs must be an integer of at least 1"),
        ({"shutdown_timeout": -1.0}, "shutdown_timeout must be a finite number of at least 0"),
        ({"public_metrics": 1}, "public_metrics must be a bool"),
        ({"allowed_origins": "*"}, "allowed_origins must be a list of strings"),
        ({"api_keys": [""]}, "api_keys.0. must be a string that is not empty"),
        ({"default_chat_template_kwargs": []}, "default_chat_template_kwargs must be a mapping"),
        ({"chat_template_content_format": "xml"}, "chat_template_content_format must be one of"),
        ({"uvicorn_log_level": "loud"}, "uvicorn_log_level must be one of"),
    ],
)
def test_wrong_value_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ServerConfig(**fields)


def test_keys_are_not_shown() -> None:
    assert "secret" not in repr(ServerConfig(api_keys=("secret",)))
