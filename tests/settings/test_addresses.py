"""Addresses are shown without what they may hold in secret."""

from __future__ import annotations

import pytest

from processor.ultimate_embedder.addresses import shown_address, without_login


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://user:secret@host:4318/path?token=secret", "http://host:4318"),
        ("https://host", "https://host"),
        ("http://user:secret@host:no", "an address that cannot be read"),
        ("http://[secret", "an address that cannot be read"),
        ("http://host:99999", "an address that cannot be read"),
        ("http://user:secret@", "an address that cannot be read"),
        ("http://user:secret@[::1]:4318/path", "http://[::1]:4318"),
        ("user:secret@host:4318", "host:4318"),
    ],
)
def test_an_address_is_shown_by_scheme_host_and_port(address: str, shown: str) -> None:
    assert shown_address(address) == shown


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://user:secret@host:6333/a@b", "http://host:6333/a@b"),
        ("user:se@cret@host", "host"),
        ("//token@host/x", "//host/x"),
        ("http://host:6333/a", "http://host:6333/a"),
        ("http://host?a=b@c", "http://host?a=b@c"),
        ("http://[::1", "http://[::1"),
        ("http://user:sec/ret@host:6333", "http://host:6333"),
        ("user:sec#ret@host", "host"),
    ],
)
def test_a_login_is_left_out_and_the_rest_stays(address: str, shown: str) -> None:
    assert without_login(address) == shown
