"""Network addresses: read in one way, and shown without the login one can hold."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

_LOGIN: Final = re.compile(r"^((?:[^/?#]*//)?)[^/?#]*@")
_UP_TO_THE_LAST_AT: Final = re.compile(r"^((?:[^/?#]*//)?).*@", re.DOTALL)


def address_parts(address: str) -> SplitResult | None:
    """Return the parts of an address, None where it cannot be read.

    An address without a scheme begins with its host.
    """
    try:
        parts = urlsplit(address if "//" in address else f"//{address}")
        _ = parts.port  # told only when asked for: one out of range, or no number
    except ValueError:
        return None
    return parts


def shown_address(address: str) -> str:
    """Return scheme, host and port: other parts may hold a password or a token."""
    parts = address_parts(address)
    if parts is None or not parts.hostname:
        return "an address that cannot be read"  # who uses it says what ails it
    scheme = f"{parts.scheme}://" if parts.scheme else ""
    return scheme + parts.netloc.rpartition("@")[2]


def without_login(address: str) -> str:
    """Return an address without `user:password@`, otherwise as it was written.

    What cannot be read may have a `/` or `#` in its password: there a login ends at the
    last `@`.
    """
    login = _LOGIN if address_parts(address) else _UP_TO_THE_LAST_AT
    return login.sub(r"\1", address)
