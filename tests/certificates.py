"""Certificates for tests."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from trustme import CA

__all__ = ["write_certificate"]


def write_certificate(ca: CA, folder: Path, *names: str, not_after: datetime | None = None) -> None:
    """Put `cert.pem` and `key.pem` for these names into the folder, and `ca.pem` to check them by."""
    issued = ca.issue_cert(*names, not_after=not_after)
    chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
    for name, content in (
        ("cert.pem", chain),
        ("key.pem", issued.private_key_pem.bytes()),
        ("ca.pem", ca.cert_pem.bytes()),
    ):
        new = folder / f"{name}.new"
        new.write_bytes(content)
        new.replace(folder / name)  # as those do that renew certificates
