"""Network addresses as they may be shown: without the login that one can hold."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

_LOGIN: Final = re.compile(r"^((?:[^/?#]*//)?)[^/?#]*@")


def shown_address(address: str) -> str:
    """Return scheme, host and port: other parts may hold a password or a token."""
    try:
        parts = urlsplit(address)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:  # neither shown nor refused here: who uses it says what ails it
        return "an address that cannot be read"
    return f"{parts.scheme}://{parts.hostname}{port}"


def without_login(address: str) -> str:
    """Return an address without `user:password@`, otherwise as it was written."""
    return _LOGIN.sub(r"\1", address)
