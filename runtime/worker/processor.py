"""What engines compute on, by name: equal names mean that each slows the other."""

from __future__ import annotations

import socket

__all__ = ["processor"]


def processor(device: str = "cpu") -> str:
    """A device of this machine, named as torch does: all its cores are one, each GPU is one."""
    return f"{socket.gethostname()}/{device}"
