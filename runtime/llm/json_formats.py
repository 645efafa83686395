"""Formats of JSON Schema as regexes, for those of which xgrammar writes what does not exist.

It writes 31 days in each month, the year 0, leap seconds, durations of more days than there are, and numbers
with leading zeros in IPv4 addresses, which nothing takes that reads the value; and any text for formats of
pydantic's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["ENFORCED", "PATTERNS"]

_YEAR: Final = r"(?:\d{3}[1-9]|\d{2}[1-9]\d|\d[1-9]\d{2}|[1-9]\d{3})"
_LEAP_YEAR: Final = (
    r"(?:\d{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"  # every fourth century
)
_DAY: Final = (
    r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])"
    r"|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)"
    r"|02-(?:0[1-9]|1\d|2[0-8]))"
)
_DATE: Final = rf"(?:{_YEAR}-{_DAY}|{_LEAP_YEAR}-02-29)"
_HOUR: Final = r"(?:[01]\d|2[0-3])"
_CLOCK: Final = rf"{_HOUR}:[0-5]\d:[0-5]\d(?:\.\d+)?"
_TIME: Final = rf"{_CLOCK}(?:Z|[+-]{_HOUR}:[0-5]\d)"
_SECONDS: Final = r"\d{1,5}(?:\.\d{1,6})?S"
_MINUTES: Final = rf"(?:\d{{1,5}}M(?:{_SECONDS})?|{_SECONDS})"
_HOURS: Final = rf"T(?:\d{{1,5}}H{_MINUTES}?|{_MINUTES})"
_DAYS: Final = r"(?:\d{1,3}Y(?:\d{1,2}M)?(?:\d{1,5}D)?|\d{1,2}M(?:\d{1,5}D)?|\d{1,5}D)"
_UUID: Final = "^[0-9a-f]{{8}}-[0-9a-f]{{4}}-{}[0-9a-f]{{3}}-[89ab][0-9a-f]{{3}}-[0-9a-f]{{12}}$"
_BYTE: Final = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4: Final = rf"{_BYTE}(?:\.{_BYTE}){{3}}"
_HEX: Final = "[0-9a-f]{1,4}"
_IPV6: Final = "|".join(
    [f"(?:{_HEX}:){{7}}{_HEX}"]  # else, zeros are left out after so many groups
    + [f"{':'.join([_HEX] * left)}::(?:{_HEX}(?::{_HEX}){{0,{6 - left}}})?" for left in range(7)]
)


def _network_v4(bits: int) -> str:
    """IPv4 networks of a prefix of so many bits, after which an address has zeros."""
    whole, rest = divmod(bits, 8)
    parts = [_BYTE] * whole
    if rest:
        parts.append(f"(?:{'|'.join(map(str, range(0, 256, 2 ** (8 - rest))))})")
    return r"\.".join([*parts, *["0"] * (4 - len(parts))]) + f"/{bits}"


def _network_v6(digits: int) -> str:
    """IPv6 networks of a prefix of so many hexadecimal digits, after which an address has zeros."""
    whole, rest = divmod(digits, 4)
    parts = [_HEX] * whole
    if rest:
        parts.append(f"[1-9a-f][0-9a-f]{{{rest - 1}}}{'0' * (4 - rest)}")
    return f"{':'.join(parts)}{'::' if len(parts) < 8 else ''}/{4 * digits}"


_NETWORK_V4: Final = "|".join(map(_network_v4, range(33)))
_NETWORK_V6: Final = "|".join(map(_network_v6, range(33)))
_INTERFACE_V4: Final = rf"{_IPV4}(?:/(?:[12]?\d|3[0-2]))?"
_INTERFACE_V6: Final = rf"(?:{_IPV6})(?:/(?:[1-9]?\d|1[01]\d|12[0-8]))?"
_BASE64: Final = "^(?:{0}{{4}})*(?:{0}[AQgw]==|{0}{{2}}[AEIMQUYcgkosw048]=)?$"

PATTERNS: Final[Mapping[str, str]] = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "date-time-local": f"^{_DATE}T{_CLOCK}$",  # without a time zone
    "duration": rf"^P(?:{_DAYS}(?:{_HOURS})?|{_HOURS}|\d{{1,4}}W)$",
    "ipv4": f"^{_IPV4}$",
    "ipv4network": f"^(?:{_NETWORK_V4})$",
    "ipv6network": f"^(?:{_NETWORK_V6})$",
    "ipv4interface": f"^{_INTERFACE_V4}$",
    "ipv6interface": f"^{_INTERFACE_V6}$",
    "ipvanyaddress": f"^(?:{_IPV4}|{_IPV6})$",
    "ipvanynetwork": f"^(?:{_NETWORK_V4}|{_NETWORK_V6})$",
    "ipvanyinterface": f"^(?:{_INTERFACE_V4}|{_INTERFACE_V6})$",
    "base64": _BASE64.format("[A-Za-z0-9+/]"),
    "base64url": _BASE64.format("[A-Za-z0-9_-]"),
    "fraction": r"^-?\d{1,17}(?:/[1-9]\d{0,16})?$",
    **{f"uuid{version}": _UUID.format(version) for version in range(1, 9)},
}
"""By the format's name."""

ENFORCED: Final = PATTERNS.keys() | {
    *("hostname", "ipv6", "json-pointer", "relative-json-pointer"),
    *("uri", "uri-reference", "uri-template", "uuid"),
}
"""The formats that a model is held to; all others are any string."""
