"""The socket that a server listens on, taken before the model loads: a wrong address shouldn't cost minutes."""

from __future__ import annotations

import socket
import ssl

from jaxllm.errors import ValidationError
from jaxllm.server.config import ServerConfig


def bind(config: ServerConfig) -> socket.socket | None:
    """A bound socket that doesn't listen yet; None for a Unix socket, which uvicorn makes."""
    if config.uds is not None:
        return None
    host = config.host or "0.0.0.0"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, config.port))
    except OSError as error:
        bound.close()
        raise ValidationError(f"can't listen on {host} port {config.port}: {error}", parameter="port") from error
    return bound


def address(config: ServerConfig, bound: socket.socket | None) -> str:
    """Where clients find the server."""
    scheme = "https" if config.is_tls else "http"
    if bound is None:
        return f"{scheme}+unix://{config.uds}"
    host, port = bound.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def check_certificate(config: ServerConfig) -> None:
    """Raises if the files for TLS can't be used."""
    if config.ssl_certfile is None:
        return
    try:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(config.ssl_certfile, config.ssl_keyfile)
        if config.ssl_ca_certs is not None:
            tls.load_verify_locations(config.ssl_ca_certs)
        if config.ssl_ciphers is not None:
            tls.set_ciphers(config.ssl_ciphers)
    except (OSError, ssl.SSLError) as error:
        raise ValidationError(
            f"ssl_certfile, ssl_keyfile, ssl_ca_certs and ssl_ciphers can't be used together: {error}",
            parameter="ssl_certfile",
        ) from error
