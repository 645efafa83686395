"""TLS between clients, orchestrator and workers, and what is said where it does not come about."""

from __future__ import annotations

import asyncio
import logging
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from pydantic import SecretStr, ValidationError
from starlette.responses import PlainTextResponse
from trustme import CA

from weft.proto import orchestrator_pb2 as pb
from weft.proto.orchestrator_pb2_grpc import OrchestratorStub
from weft.runtime import channels
from weft.runtime.access import KEYLESS, Access, keyed
from weft.runtime.channels import blocking_channel, open_channel
from weft.runtime.config import ConfigError, Settings, WorkerConfig
from weft.runtime.http.server import HttpServer
from weft.runtime.orchestrator.server import Server
from weft.runtime.tls import Certificate, authorities, obstacle
from weft.runtime.worker.catalog import Catalog
from weft.runtime.worker.host import Host

from ..certificates import write_certificate

KEY = "a-key!"
DESCRIBE = pb.DescribeServerRequest()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a certificate for loopback, by name and by address, its key and its CA's certificate."""
    write_certificate(CA(), tmp_path, "localhost", "127.0.0.1")
    return tmp_path


def knowing(files: Path, key: str | None = KEY) -> Access:
    return Access(key, authorities(files / "ca.pem"))


def certificate_in(files: Path) -> Certificate:
    return Certificate(files / "cert.pem", files / "key.pem")


@asynccontextmanager
async def orchestrator(files: Path | None, listen: str = "127.0.0.1:0") -> AsyncIterator[str]:
    settings = Settings(listen=listen, models=[], journal_mb=0, api_key=SecretStr(KEY))
    if files is not None:
        tls = {f"tls_{name}": files / f"{name}.pem" for name in ("cert", "key", "ca")}
        settings = settings.model_copy(update=tls)
    server = Server(settings)
    try:
        yield await server.start()
    finally:
        await server.stop()


@asynccontextmanager
async def worker(at: str, access: Access, files: Path | None, advertise: str = "") -> AsyncIterator[Host]:
    host = Host(
        Catalog([]),
        listen="127.0.0.1:0",
        orchestrator=at,
        advertise=advertise,
        worker_id="w",
        access=access,
        certificate=None if files is None else certificate_in(files),
    )
    await host.start()
    try:
        yield host
    finally:
        await host.stop()


async def workers_of(address: str, access: Access) -> list[str]:
    async with open_channel(address, access) as channel:
        stub: Any = OrchestratorStub(keyed(channel, access.key))
        return [found.address for found in (await stub.Describe(DESCRIBE, timeout=10)).workers]


async def eventually_said(caplog: pytest.LogCaptureFixture, text: str) -> None:
    async with asyncio.timeout(30):
        while text not in caplog.text:
            await asyncio.sleep(0.05)


async def test_a_server_with_a_certificate_is_called_by_tls(files: Path) -> None:
    def ask(address: str, access: Access) -> None:
        with blocking_channel(address, access) as channel:
            assert not OrchestratorStub(keyed(channel, access.key)).Describe(DESCRIBE, timeout=10).workers

    async with orchestrator(files) as address:
        assert address.startswith("grpcs://127.0.0.1:")
        for each in (address, address.replace("127.0.0.1", "localhost")):
            assert await workers_of(each, knowing(files)) == []
            await asyncio.to_thread(ask, each, knowing(files))
        with pytest.raises(grpc.aio.AioRpcError, match="set WEFT_API_KEY"):
            await workers_of(address, knowing(files, "another"))


async def test_a_unix_socket_needs_none(files: Path) -> None:
    listen = f"unix:{files}/s"
    async with orchestrator(files, listen) as address:
        assert address == listen
        assert await workers_of(address, Access(KEY)) == []


async def test_a_worker_joins_and_is_called_by_tls(files: Path) -> None:
    access = knowing(files)
    async with orchestrator(files) as address, worker(address, access, files) as host, asyncio.timeout(20):
        assert host.address.startswith("grpcs://127.0.0.1:")
        while await workers_of(address, access) != [host.address]:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("advertise", ["gpu-3:7430", "grpcs://gpu-3:7430"])
async def test_a_worker_with_a_certificate_is_to_be_called_by_tls(files: Path, advertise: str) -> None:
    async with worker("127.0.0.1:1", KEYLESS, files, advertise) as host:
        assert host.address == "grpcs://gpu-3:7430"


async def test_an_orchestrator_says_why_it_cannot_call_a_worker(
    files: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "other").mkdir()
    write_certificate(CA(), tmp_path / "other", "127.0.0.1")
    async with orchestrator(files) as address, worker(address, knowing(files), tmp_path / "other"):
        await eventually_said(caplog, "refused: worker 'w' cannot be reached at 'grpcs://127.0.0.1:")
        assert "nobody who is known vouches for it" in caplog.text
        assert await workers_of(address, knowing(files)) == []


async def test_a_worker_says_why_it_cannot_call_the_orchestrator(
    files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with orchestrator(files) as address, worker(address.removeprefix("grpcs://"), Access(KEY), None):
        await eventually_said(caplog, f": it speaks TLS; call it {address}; trying again")


async def test_what_keeps_client_and_server_apart_is_said_with_the_remedy(files: Path) -> None:
    other = Access(KEY, CA().cert_pem.bytes())
    async with orchestrator(files) as address, orchestrator(None) as plain:
        port, at = address.rpartition(":")[2], address.removeprefix("grpcs://")
        cases = {
            (
                address,
                other,
            ): "nobody who is known vouches for it (unable to get local issuer certificate); set "
            "WEFT_TLS_CA, or tls_ca in weft.toml, to a file with the certificate of its CA",
            (address, KEYLESS): "nobody who is known vouches for it",
            (at, knowing(files)): f"it speaks TLS; call it {address}",
            (f"grpcs://127.0.0.2:{port}", knowing(files)): "",  # nobody is there
            (
                f"grpcs://{plain}",
                knowing(files),
            ): f"it does not speak TLS; give it tls_cert and tls_key, or call it {plain} without grpcs://",
            (plain, KEYLESS): "",
            (address, knowing(files)): "",
            (f"unix:{files}/s", KEYLESS): "",
        }
        for (called, access), why in cases.items():
            assert (await obstacle(called, access)).startswith(why)
            assert bool(await obstacle(called, access)) is bool(why)


async def test_a_certificate_is_for_its_names(files: Path) -> None:
    write_certificate(CA(), files, "elsewhere.test")
    async with orchestrator(files) as address:
        said = (
            "IP address mismatch, certificate is not valid for '127.0.0.1'; call it by a name that stands in"
        )
        assert (await obstacle(address, knowing(files))).startswith(said)
        called = address.replace("127.0.0.1", "localhost")
        assert (await obstacle(called, knowing(files))).startswith("Hostname mismatch, ")
        with pytest.raises(grpc.aio.AioRpcError):
            await workers_of(called, knowing(files))


async def test_a_certificate_that_is_over_is_refused_with_the_reason(files: Path) -> None:
    write_certificate(CA(), files, "127.0.0.1", not_after=datetime.now(UTC) - timedelta(days=1))
    async with orchestrator(files) as address:
        assert (
            await obstacle(address, knowing(files)) == "its certificate is refused: certificate has expired"
        )


async def shown_by(address: str) -> bytes:
    """The certificate that a server shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    host, _, port = address.removeprefix("grpcs://").rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return shown


async def test_files_that_are_replaced_count_from_the_next_connection_on(
    files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(
        Settings(
            listen="127.0.0.1:0",
            models=[],
            journal_mb=0,
            tls_cert=files / "cert.pem",
            tls_key=files / "key.pem",
        )
    )
    http = HttpServer("127.0.0.1:0", PlainTextResponse("hello"), certificate=server.certificate)
    doors = [await server.start(), await http.start()]
    try:
        before = {await shown_by(door) for door in doors}
        assert before == {der_in(files)}
        chain = (files / "cert.pem").read_bytes()
        write_certificate(CA(), files, "127.0.0.1")
        assert {await shown_by(door) for door in doors} == {der_in(files)} != before
        renewed = der_in(files)
        assert await workers_of(doors[0], knowing(files, None)) == []
        (files / "cert.pem").write_bytes(chain)  # which is not that of the key
        assert {await shown_by(door) for door in doors} == {renewed}
        assert caplog.text.count("is not the key of the certificate") == 1
        (files / "key.pem").unlink()
        assert {await shown_by(door) for door in doors} == {renewed}
        write_certificate(CA(), files, "127.0.0.1")
        assert {await shown_by(door) for door in doors} == {der_in(files)} != {renewed}
    finally:
        await asyncio.gather(server.stop(), http.stop())


def der_in(files: Path) -> bytes:
    first, end, _ = (files / "cert.pem").read_text().partition("-----END CERTIFICATE-----")
    return ssl.PEM_cert_to_DER_cert(first + end)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("rm cert.pem", "tls_cert: {}/cert.pem cannot be read: No such file or directory"),
        ("rm key.pem", "tls_key: {}/key.pem cannot be read: No such file or directory"),
        ("rm cert.pem; mkdir cert.pem", "tls_cert: {}/cert.pem cannot be read: Is a directory"),
        ("cp key.pem cert.pem", "tls_cert: {}/cert.pem holds no certificate in PEM"),
        ("cp cert.pem key.pem", "tls_key: {}/key.pem holds no private key in PEM"),
        ("cp other/key.pem .", "tls_key: {0}/key.pem is not the key of the certificate in {0}/cert.pem"),
        ("sed -i 's/BEGIN/BEGIN ENCRYPTED/' key.pem", "tls_key: {}/key.pem wants a passphrase, for which"),
        ("sed -i 2d cert.pem", "tls_cert, tls_key: {0}/cert.pem and {0}/key.pem: "),
        ("rm ca.pem", "tls_ca: {}/ca.pem cannot be read: No such file or directory"),
        ("cp key.pem ca.pem", "tls_ca: {}/ca.pem holds no certificate in PEM"),
    ],
)
async def test_files_that_cannot_be_used_are_refused_at_the_start(
    files: Path, broken: str, message: str
) -> None:
    (files / "other").mkdir()
    write_certificate(CA(), files / "other", "localhost")
    subprocess.run(["/bin/sh", "-c", broken], cwd=files, check=True)
    with pytest.raises(ConfigError) as refused:
        async with orchestrator(files):
            pass
    assert str(refused.value).startswith(message.format(files))


@pytest.mark.parametrize("alone", ["tls_cert", "tls_key"])
def test_certificate_and_key_belong_together(alone: str) -> None:
    with pytest.raises(ValidationError, match="tls_cert and tls_key belong together"):
        Settings.model_validate({alone: "f.pem"})
    with pytest.raises(ValidationError, match="tls_cert and tls_key belong together"):
        WorkerConfig.model_validate({"kinds": ["embed"], "orchestrator": "h:1", alone: "f.pem"})


@pytest.mark.parametrize(
    ("address", "access", "warned"),
    [
        ("gpu-3:7420", Access(KEY), True),
        ("10.0.0.7:7420", Access(KEY), True),
        ("10.0.0.7:7420", KEYLESS, False),
        ("grpcs://10.0.0.7:7420", Access(KEY), False),
        ("127.0.0.1:7420", Access(KEY), False),
        ("unix:/a", Access(KEY), False),
    ],
)
async def test_a_key_that_others_could_read_is_warned_of_once(
    address: str, access: Access, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    channels._warn.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            async with open_channel(address, access):
                pass
            with blocking_channel(address, access):
                pass
    assert caplog.text.count(f"the key goes to {address} unencrypted, and so does everything else") == warned
    assert len(caplog.records) == warned
