"""Settings of the HTTP server; those of the engine are in `jaxllm.config`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxllm.errors import ValidationError
from jaxllm.validation import check_bool, check_choice, check_float, check_int, check_list, check_str, fail

FINGERPRINT_MODES = ("full", "hash", "custom", "none")
LOG_LEVELS = ("critical", "error", "warning", "info", "debug", "trace")


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Everything that `make_app` and `serve` need besides an engine."""

    host: str | None = None
    """Address to listen on; None is every address."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    uds: str | None = None
    """Path of a Unix socket to listen on, instead of host and port."""
    root_path: str = ""
    """Path under which a proxy serves this server."""
    ssl_keyfile: str | None = None
    """Private key of `ssl_certfile`."""
    ssl_certfile: str | None = None
    """Certificate; serving is over TLS if it is given."""
    ssl_ca_certs: str | None = None
    """Certificates that clients' certificates are checked against."""
    ssl_cert_reqs: int = 0
    """Whether clients need a certificate: `ssl.CERT_NONE` (0), CERT_OPTIONAL (1) or CERT_REQUIRED (2)."""
    ssl_ciphers: str | None = None
    """OpenSSL's list of ciphers; None is uvicorn's."""
    timeout_keep_alive: int = 5
    """Seconds that an idle connection is kept open."""
    api_keys: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    """Bearer tokens, one of which a request must bring; none means that everyone may ask."""
    public_metrics: bool = False
    """Serve /metrics without an API key."""
    allowed_origins: tuple[str, ...] = ()
    """Origins whose web pages may call the server; "*" is all."""
    allow_credentials: bool = False
    """Whether those pages may send credentials."""
    allowed_methods: tuple[str, ...] = ("*",)
    """Methods that those pages may use."""
    allowed_headers: tuple[str, ...] = ("*",)
    """Headers that those pages may send."""
    middleware: tuple[str, ...] = ()
    """Import paths of ASGI middleware classes, or of functions of a request and the next handler."""
    enable_request_id_headers: bool = False
    """Answer with the request's X-Request-Id."""
    disable_fastapi_docs: bool = False
    """Serve no /docs, /redoc and /openapi.json."""
    skip_model_name_validation: bool = False
    """Accept every model name."""
    response_role: str = "assistant"
    """Role of chat answers."""
    chat_template_content_format: str = "auto"
    """Whether the chat template reads contents as "string" or as "openai" parts; "auto" looks at the template."""
    default_chat_template_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Variables for the chat template; a request's own win."""
    trust_request_chat_template: bool = False
    """Accept chat templates in requests: a template is a program, though in a sandbox."""
    return_tokens_as_token_ids: bool = False
    """Write tokens in log-probabilities as "token_id:7" instead of their text."""
    enable_prompt_tokens_details: bool = False
    """Tell in the usage how many prompt tokens were cached."""
    enable_force_include_usage: bool = False
    """Tell the usage in every chunk of every stream, whether asked for or not."""
    sse_keep_alive_interval: float = 0.0
    """Seconds after which a silent stream sends a comment, so that proxies keep it open; 0 is never."""
    fingerprint_mode: str = "full"
    """What system_fingerprint holds: version and hash ("full"), the "hash", `fingerprint_value` ("custom"), "none"."""
    fingerprint_value: str | None = None
    """The fingerprint in the mode "custom"."""
    max_num_queued_reqs: int | None = None
    """Most unfinished requests, each of n completions counting n times; more are refused with 503. None is no limit."""
    max_num_queued_tokens: int | None = None
    """No request is taken while unfinished ones have this many prompt tokens. None is no limit."""
    max_stop_strings: int = 4
    """Most stop strings of one request."""
    max_completion_prompts: int = 1024
    """Most prompts of one completion request."""
    max_request_body_size: int = 32 * 2**20
    """Most bytes of a request's body; larger ones are refused with 413."""
    shutdown_timeout: float = 25.0
    """Seconds that running requests have to finish after a signal to stop; 0 aborts them at once."""
    keep_alive_on_engine_death: bool = False
    """Stay up, and answer with errors, after the engine failed."""
    enable_log_requests: bool = False
    """Log every request's id, parameters and prompt."""
    enable_log_outputs: bool = False
    """Log what was generated, too."""
    max_log_len: int | None = None
    """Most characters of a prompt or an output in the log; None is no limit."""
    disable_uvicorn_access_log: bool = False
    """Log no line per HTTP request."""
    disable_access_log_for_endpoints: tuple[str, ...] = ()
    """Paths that get no such line."""
    uvicorn_log_level: str = "info"
    """Least level of the web server's own messages."""
    vllm_metric_names: bool = False
    """Give each metric under vLLM's name, too."""

    def __post_init__(self) -> None:
        for name, value in (self._checked_values() | self._checked_lists()).items():
            object.__setattr__(self, name, value)
        self._check_combinations()

    @property
    def is_tls(self) -> bool:
        """Whether the server speaks HTTPS."""
        return self.ssl_certfile is not None

    def _checked_values(self) -> dict[str, Any]:
        texts = ("host", "uds", "ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "ssl_ciphers", "fingerprint_value")
        limits = ("max_num_queued_reqs", "max_num_queued_tokens", "max_log_len")
        counts = ("max_stop_strings", "max_completion_prompts", "max_request_body_size", "timeout_keep_alive")
        seconds = ("sse_keep_alive_interval", "shutdown_timeout")
        flags = [field.name for field in dataclasses.fields(self) if field.type == "bool"]
        checked: dict[str, Any] = {name: check_bool(name, getattr(self, name)) for name in flags}
        checked |= {name: _check_optional(name, getattr(self, name), check_str) for name in texts}
        checked |= {name: _check_optional(name, getattr(self, name), _check_count) for name in limits}
        checked |= {name: _check_count(name, getattr(self, name)) for name in counts}
        checked |= {name: check_float(name, getattr(self, name), low=0.0) for name in seconds}
        return checked | {
            "port": check_int("port", self.port, low=0, high=65535),
            "ssl_cert_reqs": check_int("ssl_cert_reqs", self.ssl_cert_reqs, low=0, high=2),
            "root_path": _check_root_path(self.root_path),
            "response_role": check_str("response_role", self.response_role),
            "fingerprint_mode": check_choice("fingerprint_mode", self.fingerprint_mode, FINGERPRINT_MODES),
            "uvicorn_log_level": check_choice("uvicorn_log_level", self.uvicorn_log_level, LOG_LEVELS),
            "chat_template_content_format": check_choice(
                "chat_template_content_format", self.chat_template_content_format, ("auto", "string", "openai")
            ),
        }

    def _checked_lists(self) -> dict[str, Any]:
        names = [field.name for field in dataclasses.fields(self) if field.type == "tuple[str, ...]"]
        lists = {name: tuple(check_list(name, getattr(self, name), check_str, "a list of strings")) for name in names}
        if not isinstance(self.default_chat_template_kwargs, Mapping):
            raise fail("default_chat_template_kwargs", "a mapping", self.default_chat_template_kwargs)
        return {**lists, "default_chat_template_kwargs": dict(self.default_chat_template_kwargs)}

    def _check_combinations(self) -> None:
        if (self.ssl_keyfile or self.ssl_ca_certs) and not self.ssl_certfile:
            raise ValidationError("ssl_certfile is needed with ssl_keyfile and ssl_ca_certs", parameter="ssl_certfile")
        if self.enable_log_outputs and not self.enable_log_requests:
            raise ValidationError("enable_log_outputs needs enable_log_requests", parameter="enable_log_outputs")
        if (self.fingerprint_mode == "custom") != (self.fingerprint_value is not None):
            raise ValidationError(
                "fingerprint_value and fingerprint_mode 'custom' need each other", parameter="fingerprint_value"
            )


def _check_count(name: str, value: Any) -> int:
    return check_int(name, value, low=1)


def _check_optional(name: str, value: Any, check: Any) -> Any:
    return None if value is None else check(name, value)


def _check_root_path(value: Any) -> str:
    if not isinstance(value, str) or (value and (not value.startswith("/") or value.endswith("/"))):
        raise fail("root_path", "a path that starts with / and doesn't end with it", value)
    return value
