"""Flags of `jaxllm serve` that are not the engine's."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from jaxllm.cli.options import EngineOptions, json_option
from jaxllm.errors import ValidationError

if TYPE_CHECKING:
    from jaxllm.server.config import ServerConfig

API_KEY_VARIABLES = ("JAXLLM_API_KEY", "VLLM_API_KEY")
"""Where the key comes from if no flag gives one; the first wins."""
SKIP_NAME_VARIABLES = ("JAXLLM_SKIP_MODEL_NAME_VALIDATION", "VLLM_SKIP_MODEL_NAME_VALIDATION")
KEEP_ALIVE_VARIABLES = ("JAXLLM_KEEP_ALIVE_ON_ENGINE_DEATH", "VLLM_KEEP_ALIVE_ON_ENGINE_DEATH")

_NOT_YET_SWITCH = Annotated[bool | None, Option(hidden=True)]
_NOT_YET_VALUE = Annotated[str | None, Option(hidden=True)]


@dataclass(frozen=True, kw_only=True)
class UnsupportedServeOptions:
    """Flags of `vllm serve` that jaxllm refuses by name, unless their value asks for nothing."""

    enable_auto_tool_choice: _NOT_YET_SWITCH = None
    exclude_tools_when_tool_choice_none: _NOT_YET_SWITCH = None
    tool_call_parser: _NOT_YET_VALUE = None
    tool_parser_plugin: _NOT_YET_VALUE = None
    tool_strict_level: _NOT_YET_VALUE = None
    tool_server: _NOT_YET_VALUE = None
    reasoning_parser_plugin: _NOT_YET_VALUE = None
    reasoning_effort_map: _NOT_YET_VALUE = None
    anthropic_disabled_thinking_effort: _NOT_YET_VALUE = None
    trust_request_mm_kwargs: _NOT_YET_SWITCH = None
    enable_per_request_metrics: _NOT_YET_SWITCH = None
    enable_tokenizer_info_endpoint: _NOT_YET_SWITCH = None
    enable_offline_docs: _NOT_YET_SWITCH = None
    enable_ssl_refresh: _NOT_YET_SWITCH = None
    enable_scale_out: _NOT_YET_SWITCH = None
    tokens_only: _NOT_YET_SWITCH = None
    headless: _NOT_YET_SWITCH = None
    grpc: _NOT_YET_SWITCH = None
    api_server_count: Annotated[int | None, Option(hidden=True)] = None
    enable_server_load_tracking: _NOT_YET_SWITCH = None
    """Harmless: /load always counts."""
    disable_frontend_multiprocessing: _NOT_YET_SWITCH = None
    """Harmless: there is one process."""
    disable_log_requests: _NOT_YET_SWITCH = None
    """Harmless: requests are not logged unless asked for."""

    def refuse(self) -> None:
        """Raises for the first flag that asks for something."""
        always_harmless = ("enable_server_load_tracking", "disable_frontend_multiprocessing", "disable_log_requests")
        for field in dataclasses.fields(UnsupportedServeOptions):
            value = getattr(self, field.name)
            is_harmless = value is None or value is False or (field.name == "api_server_count" and value == 1)
            if not is_harmless and field.name not in always_harmless:
                flag = f"--{field.name.replace('_', '-')}"
                raise ValidationError(f"{flag} is not supported yet, got {value!r}", parameter=field.name)


@dataclass(frozen=True, kw_only=True)
class ServeOptions(UnsupportedServeOptions, EngineOptions):
    """Flags of `serve`; one that is not given keeps the server's default."""

    host: Annotated[str | None, Option(help="Address to listen on; every address if not given.")] = None
    port: Annotated[int | None, Option(min=0, max=65535, help="Port, 8000 if not given; 0 takes a free one.")] = None
    uds: Annotated[str | None, Option(help="Unix socket to listen on, instead of host and port.")] = None
    root_path: Annotated[str | None, Option(help="Path under which a proxy serves this server.")] = None
    ssl_keyfile: Annotated[str | None, Option(help="Private key of the certificate.")] = None
    ssl_certfile: Annotated[str | None, Option(help="Certificate, to serve over TLS.")] = None
    ssl_ca_certs: Annotated[str | None, Option(help="Certificates that check those of clients.")] = None
    ssl_cert_reqs: Annotated[int | None, Option(help="Clients need a certificate: 0 no, 1 optional, 2 yes.")] = None
    ssl_ciphers: Annotated[str | None, Option(help="OpenSSL's list of ciphers.")] = None
    timeout_keep_alive: Annotated[int | None, Option(min=1, help="Seconds an idle connection stays open.")] = None
    api_key: Annotated[
        list[str] | None, Option(help="Keys, one of which a request must bring; JAXLLM_API_KEY if not given.")
    ] = None
    public_metrics: Annotated[bool | None, Option(help="Serve /metrics without a key.")] = None
    allowed_origins: Annotated[list[str] | None, Option(help="Origins whose pages may call the server.")] = None
    allow_credentials: Annotated[bool | None, Option(help="Let those pages send credentials.")] = None
    allowed_methods: Annotated[list[str] | None, Option(help="Methods that those pages may use.")] = None
    allowed_headers: Annotated[list[str] | None, Option(help="Headers that those pages may send.")] = None
    middleware: Annotated[list[str] | None, Option(help="Import paths of ASGI middleware.")] = None
    enable_request_id_headers: Annotated[bool | None, Option(help="Answer with X-Request-Id.")] = None
    disable_fastapi_docs: Annotated[bool | None, Option(help="Serve no /docs, /redoc, /openapi.json.")] = None
    response_role: Annotated[str | None, Option(help="Role of chat answers.")] = None
    chat_template_content_format: Annotated[
        str | None, Option(help="Contents reach the template as string, as openai parts, or auto.")
    ] = None
    default_chat_template_kwargs: Annotated[
        dict[str, Any] | None, json_option(help="Variables for the chat template; a request's own win.")
    ] = None
    trust_request_chat_template: Annotated[bool | None, Option(help="Accept chat templates in requests.")] = None
    return_tokens_as_token_ids: Annotated[bool | None, Option(help="Write tokens as token_id:7.")] = None
    enable_prompt_tokens_details: Annotated[bool | None, Option(help="Tell cached tokens in the usage.")] = None
    enable_force_include_usage: Annotated[bool | None, Option(help="Tell the usage in every stream.")] = None
    sse_keep_alive_interval: Annotated[
        float | None, Option(min=0, help="Seconds after which a silent stream sends a comment; 0 never.")
    ] = None
    fingerprint_mode: Annotated[str | None, Option(help="system_fingerprint: full, hash, custom or none.")] = None
    fingerprint_value: Annotated[str | None, Option(help="The fingerprint in the mode custom.")] = None
    max_num_queued_reqs: Annotated[
        int | None, Option(min=1, help="Most unfinished requests; more get 503. No limit if not given.")
    ] = None
    max_num_queued_tokens: Annotated[
        int | None, Option(min=1, help="No more requests while unfinished ones have this many prompt tokens.")
    ] = None
    max_stop_strings: Annotated[int | None, Option(min=1, help="Most stop strings of a request, 4.")] = None
    max_completion_prompts: Annotated[int | None, Option(min=1, help="Most prompts of a request, 1024.")] = None
    max_request_body_size: Annotated[int | None, Option(min=1, help="Most bytes of a request's body, 32 MiB.")] = None
    shutdown_timeout: Annotated[
        float | None, Option(min=0, help="Seconds that requests may go on after a signal to stop, 25.")
    ] = None
    enable_log_requests: Annotated[bool | None, Option(help="Log every request's parameters and prompt.")] = None
    enable_log_outputs: Annotated[bool | None, Option(help="Log what was generated, too.")] = None
    max_log_len: Annotated[int | None, Option(min=1, help="Most characters of a logged text.")] = None
    disable_uvicorn_access_log: Annotated[bool | None, Option(help="Log no line per HTTP request.")] = None
    disable_access_log_for_endpoints: Annotated[
        list[str] | None, Option(help="Paths that get no such line; also as one text with commas.")
    ] = None
    uvicorn_log_level: Annotated[str | None, Option(help="Least level of the web server's messages.")] = None
    vllm_metric_names: Annotated[bool | None, Option(help="Give each metric under vLLM's name, too.")] = None

    def engine_arguments(self) -> dict[str, Any]:
        """A server keeps statistics unless it is told not to."""
        return {"disable_log_stats": False} | super().engine_arguments()

    def server_config(self) -> ServerConfig:
        """The checked configuration, with what the environment says."""
        from jaxllm.server.config import ServerConfig

        names = {field.name for field in dataclasses.fields(ServerConfig)}
        values = {name: getattr(self, name) for name in names if hasattr(self, name)}
        given = {name: _plain(value) for name, value in values.items() if value is not None}
        return ServerConfig(
            api_keys=tuple(self.api_key or _environment_key()),
            skip_model_name_validation=_is_set(SKIP_NAME_VARIABLES),
            keep_alive_on_engine_death=_is_set(KEEP_ALIVE_VARIABLES),
            **given,
        )


def _plain(value: Any) -> Any:
    """Lists may come as JSON, as in vLLM, or with commas."""
    if not isinstance(value, (list, tuple)):
        return value
    if len(value) == 1 and value[0].startswith("["):
        try:
            return tuple(json.loads(value[0]))
        except ValueError:
            raise ValidationError(f"expected a JSON list, got {value[0]}") from None
    return tuple(part for text in value for part in text.split(","))


def _environment_key() -> list[str]:
    return [os.environ[name] for name in API_KEY_VARIABLES if os.environ.get(name)][:1]


def _is_set(variables: tuple[str, ...]) -> bool:
    return any(os.environ.get(name, "0").lower() not in ("", "0", "false") for name in variables)
