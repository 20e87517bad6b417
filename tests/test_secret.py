"""Secrets are never shown, and are found in whatever a vendor echoes."""

from __future__ import annotations

import base64
import html
import json
import pickle
import re
import traceback
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncclients.secret import REDACTED, Secret, redact, sealed_environment
from tests.support.leaks import CANARY, leaks


def test_secret_is_hidden() -> None:
    """repr, str, format, vars, slots and containers around it do not show it."""
    secret = Secret(CANARY)
    shown = [repr(secret), str(secret), f"{secret}", f"{secret:>40}", repr([secret]), f"{secret!r}"]
    shown.append(repr([getattr(secret, name) for name in Secret.__slots__]))
    assert not any(CANARY in text for text in shown)
    assert secret.reveal() == CANARY
    assert Secret(secret).reveal() == CANARY


def test_secret_cannot_be_pickled() -> None:
    """Neither alone nor inside a container; the error does not show it."""
    with pytest.raises(TypeError, match="cannot be pickled") as caught:
        pickle.dumps({"key": Secret(CANARY)})
    assert CANARY not in str(caught.value)


def test_secrets_compare_by_value() -> None:
    """Equal values are equal and hash alike; other types are never equal."""
    assert Secret("a" * 8) == Secret("a" * 8)
    assert hash(Secret("a" * 8)) == hash(Secret("a" * 8))
    assert Secret("a" * 8) != Secret("b" * 8)
    assert Secret("a") != "a"


def test_fingerprint_identifies_without_revealing() -> None:
    """It is the same in each process, differs by context and value, and cannot be inverted."""
    secret = Secret(CANARY)
    assert secret.fingerprint("x") == Secret(CANARY).fingerprint("x")
    assert len({secret.fingerprint(), secret.fingerprint("x"), Secret("b").fingerprint()}) == 3
    assert CANARY not in secret.fingerprint()
    assert len(secret.fingerprint()) == 32


def test_environment_is_hidden_in_tracebacks() -> None:
    """Variables do not appear in a traceback with locals; empty ones are left out."""

    def read(environment: object) -> None:
        raise ValueError(repr(environment))

    with pytest.raises(ValueError, match=r"^{'KEY': Secret\(...\)}$") as caught:
        read(sealed_environment({"KEY": CANARY, "EMPTY": ""}))
    assert leaks(caught.value, CANARY) == []
    printed = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    read_frame = "".join(printed.format()).split("in read")[1]
    assert CANARY not in read_frame


ECHOES: dict[str, Callable[[str], str]] = {
    "plain": lambda text: text,
    "quoted": lambda text: quote(text, safe=""),
    "quoted in lower case": lambda text: re.sub(
        "%..", lambda found: found[0].lower(), quote(text, safe="")
    ),
    "quoted as a form": quote_plus,
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "json": lambda text: json.dumps({"you sent": text}),
    "json of php": lambda text: json.dumps({"you sent": text}).replace("/", "\\/"),
    "html": html.escape,
}


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("secret", [CANARY, 'a"b&c<d>e/f', "käse-key/ü"])
def test_redact_finds_every_encoding(echo: str, secret: str) -> None:
    """However a vendor writes the credential, only the mark is left."""
    said = f"bad key: {ECHOES[echo](secret)} (end)"
    left = redact(said, [Secret("other-secret"), Secret(secret)])
    assert REDACTED in left
    for form in ECHOES.values():
        assert form(secret).strip('{}"') not in left


OTHER = st.text(alphabet=st.characters(exclude_categories=["Lu", "Cs"]), max_size=30)


@given(st.text(alphabet=st.characters(categories=["Lu"]), min_size=4), OTHER, OTHER)
def test_redact_leaves_no_plain_secret(secret: str, before: str, after: str) -> None:
    """Whatever surrounds it, the mark replaces the credential."""
    assert redact(before + secret + after, [Secret(secret)]) == before + REDACTED + after


def test_redact_ignores_short_values() -> None:
    """Three characters or fewer occur in every text and are no credential."""
    assert redact("a user abc", [Secret("abc"), Secret("")]) == "a user abc"


@given(st.integers(1, 200))
def test_redact_removes_a_truncated_secret(end: int) -> None:
    """A piece of a credential at the end of a truncated text is removed as well."""
    text = "ab " + CANARY * 10
    left = redact(text[: 3 + end], [Secret(CANARY)], more=True)
    assert left == "ab " + REDACTED * (end // len(CANARY))
