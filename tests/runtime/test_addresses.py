"""What addresses say, and which are none."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from weft.runtime.addresses import Address, ServerAddress, host_and_port, is_local


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:7420", True),
        ("localhost:0", True),
        ("[::1]:7420", True),
        ("unix:/a/b:1", True),
        ("0.0.0.0:7420", False),
        ("[::]:7420", False),
        ("10.0.0.7:7420", False),
        ("gpu-3:7420", False),
        ("grpcs://127.0.0.1:7420", True),
        ("grpcs://[::1]:7420", True),
        ("grpcs://gpu-3:7420", False),
    ],
)
def test_what_other_machines_can_reach(address: str, local: bool) -> None:
    assert is_local(address) is local


@pytest.mark.parametrize("address", ["h:1", "[::1]:7420", "unix:/a", "grpcs://h:1", "grpcs://[::1]:7420"])
def test_how_a_server_is_called(address: str) -> None:
    assert TypeAdapter(ServerAddress).validate_python(address) == address


@pytest.mark.parametrize(
    "address", ["h", "http://h:1", "grpcs://h", "grpcs://unix:/a", "grpcs://", "dns:///h:1"]
)
def test_how_none_is_called(address: str) -> None:
    with pytest.raises(ValidationError, match=r"an address is 'HOST:PORT', 'grpcs://HOST:PORT' \(TLS\)"):
        TypeAdapter(ServerAddress).validate_python(address)


def test_who_listens_says_by_other_settings_that_it_speaks_tls() -> None:
    with pytest.raises(ValidationError, match=r"by its tls_cert and tls_key, .* write '0.0.0.0:7420'"):
        TypeAdapter(Address).validate_python("grpcs://0.0.0.0:7420")


def test_the_parts_of_an_address() -> None:
    assert host_and_port("grpcs://[::1]:7420") == ("::1", 7420)
    assert host_and_port("h:1") == ("h", 1)
