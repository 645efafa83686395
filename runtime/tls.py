"""TLS: what servers show, what those who call them check, and why the two did not come together."""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import grpc

from .access import Access
from .addresses import SCHEME, UNIX, host_and_port, speaks_tls
from .config import Settings, WorkerConfig
from .config_file import ConfigError

__all__ = ["Certificate", "authorities", "certificate_of", "obstacle"]

_log = logging.getLogger(__name__)

_PATIENCE_S: Final = 2.0  # with a server that is asked why it cannot be talked to
_REMEDY: Final = "set WEFT_TLS_CA, or tls_ca in weft.toml, to a file with the certificate of its CA"
_OTHER_NAME: Final = frozenset({62, 64})  # OpenSSL's codes for a name and for an IP address that differ
_UNKNOWN_CA: Final = frozenset({18, 19, 20, 21})  # and for a chain that ends at nobody who is known


class Certificate:
    """The certificate of a server, with its private key, as the files hold it now.

    Files that are replaced count from the next connection on; as long as they do not fit together, what they
    held before does.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        """Raises ConfigError if the files cannot be used."""
        self._cert = cert
        self._key = key
        self._lock = threading.Lock()  # gRPC asks in threads of its own
        self._seen = self._stamps()
        self._pair = self._shown_to_grpc = self._read()

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For a port of a gRPC server, which is to hold them as long as it is open."""
        return grpc.dynamic_ssl_server_credentials(
            self._pair.configuration(),
            self._changed,  # type: ignore[arg-type]  # None says that nothing has changed; the stubs know no None
        )

    def https_context(self) -> ssl.SSLContext:
        """For an HTTP server."""
        context = self._pair.context
        context.sni_callback = self._show  # called for each connection, whether it names a server or not
        return context

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        pair = self._current()
        if pair is self._shown_to_grpc:
            return None
        self._shown_to_grpc = pair
        return pair.configuration()

    def _show(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._current().context

    def _current(self) -> _Pair:
        with self._lock:
            stamps = self._stamps()
            if stamps != self._seen:
                self._seen = stamps
                try:
                    self._pair = self._read()
                    _log.info("the certificate in %s has been replaced, and is used from now on", self._cert)
                except ConfigError as problem:
                    _log.warning("%s; the certificate from before is used on", problem)
            return self._pair

    def _stamps(self) -> tuple[object, ...]:
        """What differs once a file has been replaced or written to."""
        found: list[object] = []
        for file in (self._cert, self._key):
            with suppress(OSError):
                status = file.stat()
                found += [status.st_ino, status.st_mtime_ns, status.st_size]
        return tuple(found)

    def _read(self) -> _Pair:
        chain, key = _read("tls_cert", self._cert), _read("tls_key", self._key)
        if b"-----BEGIN CERTIFICATE-----" not in chain:
            raise ConfigError(f"tls_cert: {self._cert} holds no certificate in PEM")
        if b"PRIVATE KEY-----" not in key:
            raise ConfigError(f"tls_key: {self._key} holds no private key in PEM")
        if b"ENCRYPTED" in key:
            raise ConfigError(
                f"tls_key: {self._key} wants a passphrase, for which nobody can be asked; "
                "write it without one: openssl pkey -in KEY -out NEW"
            )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self._cert, self._key)
        except ssl.SSLError as problem:
            if problem.reason == "KEY_VALUES_MISMATCH":
                raise ConfigError(
                    f"tls_key: {self._key} is not the key of the certificate in {self._cert} (tls_cert)"
                ) from None
            raise ConfigError(f"tls_cert, tls_key: {self._cert} and {self._key}: {problem}") from None
        return _Pair(chain, key, context)


def certificate_of(settings: Settings | WorkerConfig) -> Certificate | None:
    """What a server with these settings shows. Raises ConfigError."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return Certificate(settings.tls_cert, settings.tls_key)


class _Pair(NamedTuple):
    chain: bytes
    key: bytes
    context: ssl.SSLContext

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(self.key, self.chain)])


def authorities(file: Path | None) -> bytes | None:
    """The certificates by which others are known, as an `Access` has them. Raises ConfigError."""
    if file is None:
        return None
    found = _read("tls_ca", file)
    try:
        _client_context(found)
    except ssl.SSLError as problem:
        raise ConfigError(f"tls_ca: {file} holds no certificate in PEM ({problem})") from None
    return found


async def obstacle(address: str, access: Access) -> str:
    """Why no channel comes about to a server that is there, and the remedy; empty if it is not about TLS.

    gRPC says little of it. So this knocks once more at a door that has just been found closed.
    """
    if address.startswith(UNIX):
        return ""
    encrypted = speaks_tls(address)
    try:
        host, port = host_and_port(address)
        context = _client_context(access.authorities) if encrypted else _credulous_context()
        await _shake_hands(host, port, context)
    except ssl.SSLCertVerificationError as problem:
        return _refusal(problem)
    except ssl.SSLError:
        if encrypted:
            plain = address.removeprefix(SCHEME)
            return f"it does not speak TLS; give it tls_cert and tls_key, or call it {plain} without {SCHEME}"
        return ""
    except (OSError, ValueError):  # nobody is there, or does not answer
        return ""
    return "" if encrypted else f"it speaks TLS; call it {SCHEME}{address}"


async def _shake_hands(host: str, port: int, context: ssl.SSLContext) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
    writer.transport.abort()


def _refusal(problem: ssl.SSLCertVerificationError) -> str:
    said = problem.verify_message.rstrip(".")
    if problem.verify_code in _OTHER_NAME:
        return f"{said}; call it by a name that stands in its certificate"
    if problem.verify_code in _UNKNOWN_CA:
        return f"nobody who is known vouches for it ({said}); {_REMEDY}"
    return f"its certificate is refused: {said}"


def _client_context(known: bytes | None) -> ssl.SSLContext:
    """What checks certificates as gRPC does. Raises SSLError if there are none in `known`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if known is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(cadata=known.decode("ascii", "ignore"))  # comments may be in any script
    return context


def _credulous_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # it is only to be seen whether there is one
    return context


def _read(setting: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as problem:
        raise ConfigError(f"{setting}: {file} cannot be read: {problem.strerror}") from None
