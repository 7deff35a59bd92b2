"""Secrets in text: what is hidden, what stays readable."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.masking import mask, mask_url

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at redis://me:p%40ss@h:1/0 now", "at redis://***@h:1/0 now"),
        ("redis+cluster://a:x@h1,b:y@h2:2", "redis+cluster://***@h2:2"),
        ("postgresql://u:p/w?x#y@h/d", "postgresql://***@h/d"),
        ("//me:pw@h", "//***@h"),
        ('{"url": "redis://h/0", "mail": "a@b"}', '{"url": "redis://h/0", "mail": "a@b"}'),
        ("redis://h/0 ann@example.org", "redis://h/0 ann@example.org"),
        ("password=x&sslmode=on", "password=***&sslmode=on"),
        ("sslpassword=x sentinel_password=y", "sslpassword=*** sentinel_password=***"),
        ("aws_secret_access_key=a/b+c;", "aws_secret_access_key=***;"),
        ("X-Amz-Signature=abc&x=1", "X-Amz-Signature=***&x=1"),
        ("authorization: Bearer abcdefghij", "authorization: Bearer ***"),
        ("Basic dXNlcjpwYXNz=", "Basic ***"),
        (f"got {JWT}!", "got ***!"),
        (f"x-{JWT} and y.{JWT}", "x-*** and y.***"),
        ("eyJ and eyJa.b are none", "eyJ and eyJa.b are none"),
        ("a=password=x", "a=password=***"),
        ("my.token.value=x", "my.token.value=***"),
        ("fs_" + "x" * 43, "***"),
        ("fs/shop/customer and fs_reader", "fs/shop/customer and fs_reader"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_mask(text: str, shown: str) -> None:
    assert mask(text) == shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://me:pw@h/0", "redis://me:***@h/0"),
        ("redis://me@h/0", "redis://me@h/0"),
        ("me:pw@h/0", "***@h/0"),
        ("postgresql://u:p@/d?host=a,b&password=q", "postgresql://u:***@/d?host=a,b&password=***"),
        ("lmdb:.featurestore/online", "lmdb:.featurestore/online"),
    ],
)
def test_mask_url(url: str, shown: str) -> None:
    assert mask_url(url) == shown


printable = st.characters(codec="utf-8", exclude_characters="\"'", exclude_categories=("Z", "C"))
secrets = st.text(printable, min_size=12)


@given(secret=secrets, host=st.sampled_from(["h", "h:1", "[::1]:2", "a,b:3"]))
def test_no_password_of_a_url_is_shown(secret: str, host: str) -> None:
    url = f"redis://user:SECRET{secret}@{host}/0"
    for shown in (mask(url), mask_url(url), mask(f"cannot reach {url} now")):
        assert "SECRET" not in shown
        assert host.rpartition("@")[2] in shown


@pytest.mark.parametrize(
    "part",
    [
        *("s", "//", "a.", "@", "a:", "=", "password", "token.", "secret-", 'password="'),
        *("a=secret", "eyJ", "eyJ-", "eyJa.", "eyJ.-", "fs_-", "bearer ", "basic a"),
    ],
)
@pytest.mark.parametrize("end", ["", "=", '="', "."])
def test_long_texts_take_no_longer_than_they_are_long(part: str, end: str) -> None:
    """Half a megabyte; in the square of its length it would take minutes."""
    text = part * (500_000 // len(part)) + end
    begun = time.process_time()
    mask(text)
    mask_url(text)
    assert time.process_time() - begun < 20
