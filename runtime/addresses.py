"""Addresses, as people write them: `HOST:PORT`, `grpcs://HOST:PORT` for TLS, `unix:PATH`."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Final

from pydantic import AfterValidator

__all__ = [
    "SCHEME",
    "UNIX",
    "Address",
    "HttpAddress",
    "ServerAddress",
    "host_and_port",
    "is_local",
    "is_wildcard",
    "speaks_tls",
    "with_host",
]

UNIX: Final = "unix:"
SCHEME: Final = "grpcs://"
"""What stands before the address of a server that speaks TLS."""

_WILDCARDS: Final = ("0.0.0.0", "[::]", "::")


def _address(text: str) -> str:
    """Refuse what is neither `host:port` nor `unix:path`."""
    if text.startswith(SCHEME):
        raise ValueError(
            f"who listens speaks TLS by its tls_cert and tls_key, not by its address: write "
            f"{text.removeprefix(SCHEME)!r}, not {text!r}"
        )
    if _is_tcp(text) or _is_unix(text):
        return text
    raise ValueError(f"an address is 'HOST:PORT' or 'unix:PATH', not {text!r}")


def _server_address(text: str) -> str:
    """Refuse what is none of `host:port`, `grpcs://host:port` and `unix:path`."""
    if _is_tcp(text.removeprefix(SCHEME)) or _is_unix(text):
        return text
    raise ValueError(f"an address is 'HOST:PORT', 'grpcs://HOST:PORT' (TLS) or 'unix:PATH', not {text!r}")


def _tcp_address(text: str) -> str:
    """Refuse what is not `host:port`."""
    if _is_tcp(text):
        return text
    raise ValueError(f"an HTTP address is 'HOST:PORT', not {text!r}")


def _is_tcp(text: str) -> bool:
    host, _, port = text.rpartition(":")
    plain = bool(host) and "/" not in host and not text.startswith(UNIX)
    return plain and port.isdecimal() and int(port) < 1 << 16


def _is_unix(text: str) -> bool:
    return text.startswith(UNIX) and len(text) > len(UNIX)


Address = Annotated[str, AfterValidator(_address)]
"""Where a server listens: `HOST:PORT` or `unix:PATH`."""
ServerAddress = Annotated[str, AfterValidator(_server_address)]
"""Where a server is called: `HOST:PORT`, `grpcs://HOST:PORT` or `unix:PATH`."""
HttpAddress = Annotated[str, AfterValidator(_tcp_address)]
"""Where an HTTP server listens: `HOST:PORT`."""


def speaks_tls(address: str) -> bool:
    """Whether what is called there is called by TLS."""
    return address.startswith(SCHEME)


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of an address that is no `unix:PATH`. Raises ValueError."""
    host, _, port = address.removeprefix(SCHEME).rpartition(":")
    return host.strip("[]"), int(port)


def is_local(address: str) -> bool:
    """Whether nobody on another machine can reach what listens there."""
    if address.startswith(UNIX):
        return True
    try:
        host, _ = host_and_port(address)
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def is_wildcard(address: str) -> bool:
    """Whether what listens there does so at all addresses of its machine."""
    return address.removeprefix(SCHEME).rpartition(":")[0] in _WILDCARDS


def with_host(address: str, host: str) -> str:
    """The same port, called in the same way, at another host."""
    scheme = SCHEME if speaks_tls(address) else ""
    return f"{scheme}{host}:{address.rpartition(':')[2]}"
