"""The orchestrator's gRPC server, with health checking and reflection."""

from __future__ import annotations

import errno
import os
import socket
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from weft.proto import orchestrator_pb2, orchestrator_pb2_grpc
from weft.runtime.access import Access, guards
from weft.runtime.addresses import UNIX, host_and_port
from weft.runtime.channels import open_port, server_options
from weft.runtime.config import Settings
from weft.runtime.scheduler.scheduler import Scheduler
from weft.runtime.tls import authorities, certificate_of

from .orchestrator import Orchestrator
from .service import Service

__all__ = ["AddressError", "Server", "bind"]

_NAME: Final = orchestrator_pb2.DESCRIPTOR.services_by_name["Orchestrator"].full_name
_GRACE_S: Final = 0.5  # for open streams when the server stops


class AddressError(OSError):
    """The server cannot listen where it was told to."""


class Server:
    """A running orchestrator. Belongs to one event loop."""

    def __init__(
        self, settings: Settings, scheduler: Scheduler | None = None, *, inside: str | None = None
    ) -> None:
        """`inside`: a Unix socket where it listens, too. Raises ConfigError if a file for TLS is unusable."""
        self.orchestrator = Orchestrator(settings, scheduler)
        self.certificate = certificate_of(settings)
        """What is shown to those who connect; None: they connect without TLS."""
        self._listen = settings.listen
        self._credentials = None if self.certificate is None else self.certificate.grpc_credentials()
        self._inside = inside
        self._access = Access(settings.key, authorities(settings.tls_ca))
        self._server = grpc.aio.server(
            interceptors=guards(settings.key), options=server_options(self.orchestrator.max_bytes)
        )

    async def start(self) -> str:
        """Listen and serve; the address, with the port that was taken.

        Raises AddressError and JournalError.
        """
        for address in self._addresses:
            _check_free(address)
        service = Service(self.orchestrator, self._access)
        orchestrator_pb2_grpc.add_OrchestratorServicer_to_server(service, self._server)
        servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, self._server)
        names = (_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        listening = [self._open(address) for address in self._addresses]
        self.orchestrator.take_up()
        await self._server.start()
        for name in ("", _NAME):
            await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
        return listening[0]

    @property
    def _addresses(self) -> list[str]:
        return [self._listen, *([] if self._inside is None else [self._inside])]

    def _open(self, address: str) -> str:
        """Listen there; the address by which it is called. Raises AddressError."""
        try:
            return open_port(self._server, address, self._credentials)
        except RuntimeError:
            why = "no socket can be made there"
            raise AddressError(_cannot_listen(address, why, "--listen")) from None

    async def stop(self) -> None:
        """End all runs and memberships, tell clients and workers, and hang up."""
        self.orchestrator.close()
        await self.orchestrator.keeping.close()
        await self._server.stop(_GRACE_S)


def _check_free(listen: str) -> None:
    """Say plainly what gRPC would say in many words, or not at all: that the address is in use.

    Raises AddressError. gRPC takes the path of a Unix socket from the server that listens there.
    """
    if not listen.startswith(UNIX):
        bind(listen, "--listen").close()
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(listen.removeprefix(UNIX))
        except (FileNotFoundError, ConnectionRefusedError):
            return  # nobody is there
        except OSError as problem:
            raise AddressError(_cannot_listen(listen, str(problem), "--listen")) from None
    raise AddressError(_cannot_listen(listen, os.strerror(errno.EADDRINUSE), "--listen"))


def bind(address: str, option: str) -> socket.socket:
    """A socket that has the address `HOST:PORT`. Raises AddressError that names the command's option."""
    try:
        where = socket.getaddrinfo(*host_and_port(address), type=socket.SOCK_STREAM)
        family, kind, protocol, _, found = where[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(found)
        except OSError:
            bound.close()
            raise
    except OSError as problem:
        raise AddressError(_cannot_listen(address, problem.strerror or str(problem), option)) from None
    return bound


def _cannot_listen(address: str, why: str, option: str) -> str:
    remedy = f"name another address ({option} HOST:PORT), or stop what uses it"
    return f"cannot listen on {address!r}: {why}; {remedy}"
