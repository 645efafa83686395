"""The worker's gRPC server: what it offers, and a session for every orchestrator."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from importlib.metadata import version
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from weft.proto import worker_pb2, worker_pb2_grpc
from weft.runtime.access import KEYLESS, Access, guards
from weft.runtime.addresses import SCHEME, UNIX, host_and_port, is_wildcard, speaks_tls, with_host
from weft.runtime.channels import open_port, server_options
from weft.runtime.llm.errors import EngineClosedError
from weft.runtime.tls import Certificate

from .catalog import Catalog
from .engines.base import StartError
from .faults import TaskError
from .membership import stay_joined
from .session import Session

__all__ = ["Host"]

_log = logging.getLogger(__name__)

_SERVICES: Final = tuple(worker_pb2.DESCRIPTOR.services_by_name[name].full_name for name in ("Worker",))
_GRACE_S: Final = 0.5  # for open streams when the server stops


class Host(worker_pb2_grpc.WorkerServicer):
    """Serves engines to an orchestrator. Belongs to one event loop."""

    def __init__(
        self,
        catalog: Catalog,
        *,
        listen: str,
        orchestrator: str,
        advertise: str = "",
        worker_id: str = "",
        access: Access = KEYLESS,
        certificate: Certificate | None = None,
    ) -> None:
        """`listen`: `host:port` (0: any free port) or `unix:path`; `advertise`: see `WorkerConfig`.

        `access`: with the server's key, which calls must carry; `certificate`: what is shown to those who
        call it at `host:port`.
        """
        self._catalog = catalog
        self._listen = listen
        self._advertise = advertise
        self._orchestrator = orchestrator
        self._access = access
        self._credentials = None if certificate is None else certificate.grpc_credentials()
        self._server = grpc.aio.server(interceptors=guards(access.key), options=server_options())
        self._sessions: set[Session] = set()
        self._membership: asyncio.Task[None] | None = None
        self._info = worker_pb2.WorkerInfo()
        self.id = worker_id or f"worker-{secrets.token_hex(4)}"

    @property
    def address(self) -> str:
        """Where the orchestrator reaches this worker, once it has started."""
        return self._info.address

    async def start(self) -> None:
        """Start the engines and the server, and join the orchestrator. Raises StartError."""
        await self._catalog.start()
        worker_pb2_grpc.add_WorkerServicer_to_server(self, self._server)
        await self._add_standard_services()
        address = self._bind()
        self._info = worker_pb2.WorkerInfo(
            worker_id=self.id,
            address=address,
            engines=self._catalog.infos(),
            version=version("weft"),
            pid=os.getpid(),
        )
        await self._server.start()
        _log.info("%s listens on %s", self.id, address)
        self._membership = asyncio.create_task(stay_joined(self._orchestrator, self._access, self._info))

    async def stop(self) -> None:
        """Leave the orchestrator, cancel what runs and end its stream, and stop server and engines."""
        if self._membership is not None:
            self._membership.cancel()
            with suppress(asyncio.CancelledError):
                await self._membership
        for session in self._sessions:
            session.close()
        await self._server.stop(_GRACE_S)
        await self._catalog.stop()

    async def Describe(self, request: worker_pb2.DescribeRequest, context: Any) -> worker_pb2.WorkerInfo:
        """What the worker offers, with the indexes that it has now."""
        info = worker_pb2.WorkerInfo()
        info.CopyFrom(self._info)
        del info.engines[:]
        info.engines.extend(self._catalog.infos())
        return info

    async def Execute(  # type: ignore[override]  # gRPC serves coroutines that read and write themselves, too; the generated stub knows generators only
        self, request_iterator: Any, context: Any
    ) -> None:
        """Run the tasks of one orchestrator; when its stream ends, all of them are cancelled."""
        session = Session(self._catalog, self.id)
        context.add_done_callback(lambda _: session.cancel_all())
        self._sessions.add(session)
        try:
            await session.serve(context)
        finally:
            self._sessions.remove(session)

    async def FetchKv(
        self,
        request: worker_pb2.FetchKvRequest,
        context: grpc.aio.ServicerContext[worker_pb2.FetchKvRequest, worker_pb2.KvPart],
    ) -> AsyncIterator[worker_pb2.KvPart]:
        """Give another worker KV that this one has computed."""
        try:
            async for part in self._catalog.lender(request.model).lend(request):
                yield part
        except TaskError as problem:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(problem))
        except EngineClosedError as problem:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(problem))

    async def _add_standard_services(self) -> None:
        servicer = health.aio.HealthServicer()
        for name in ("", *_SERVICES):
            await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, self._server)
        names = (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    def _bind(self) -> str:
        """Listen; returns the address by which the orchestrator reaches this worker."""
        try:
            listening = open_port(self._server, self._listen, self._credentials)
        except RuntimeError as error:
            raise StartError(
                f"cannot listen on {self._listen!r}: the address is in use or not this machine's"
            ) from error
        if self._advertise:
            scheme = SCHEME if speaks_tls(listening) else ""
            return scheme + self._advertise.removeprefix(scheme)
        return with_host(listening, _own_address(self._orchestrator)) if is_wildcard(listening) else listening


def _own_address(orchestrator: str) -> str:
    """This machine's address on the network on which it reaches the orchestrator. Raises StartError."""
    if orchestrator.startswith(UNIX):
        return "127.0.0.1"
    try:
        family, _, _, _, peer = socket.getaddrinfo(*host_and_port(orchestrator), type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(peer)  # sends nothing
            address = str(probe.getsockname()[0])
    except OSError as error:
        raise StartError(
            f"cannot tell by which address {orchestrator!r} reaches this machine: {error}"
        ) from error
    return f"[{address}]" if ":" in address else address
