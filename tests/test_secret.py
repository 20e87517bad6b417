"""A secret gives nothing away, and is found again in whatever a vendor echoes."""

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

from asyncclients.secret import CUT, Environment, Secret, cut
from tests.support.leaks import CANARY, leaks


def test_a_secret_shows_nothing() -> None:
    """repr, str, format, vars, slots and containers around it give nothing away."""
    secret = Secret(CANARY)
    shown = [repr(secret), str(secret), f"{secret}", f"{secret:>40}", repr([secret]), f"{secret!r}"]
    shown.append(repr([getattr(secret, name) for name in Secret.__slots__]))
    assert not any(CANARY in text for text in shown)
    assert secret.reveal() == CANARY
    assert Secret(secret).reveal() == CANARY


def test_a_secret_cannot_be_pickled() -> None:
    """Neither alone nor inside something, and the refusal does not name it."""
    with pytest.raises(TypeError, match="cannot be pickled") as caught:
        pickle.dumps({"key": Secret(CANARY)})
    assert CANARY not in str(caught.value)


def test_secrets_compare_by_value() -> None:
    """Equal values are equal and hash alike; other types are never equal."""
    assert Secret("a" * 8) == Secret("a" * 8)
    assert hash(Secret("a" * 8)) == hash(Secret("a" * 8))
    assert Secret("a" * 8) != Secret("b" * 8)
    assert Secret("a") != "a"


def test_a_fingerprint_names_without_telling() -> None:
    """The same in each process, other for other contexts and values, and one way."""
    secret = Secret(CANARY)
    assert secret.fingerprint("x") == Secret(CANARY).fingerprint("x")
    assert len({secret.fingerprint(), secret.fingerprint("x"), Secret("b").fingerprint()}) == 3
    assert CANARY not in secret.fingerprint()
    assert len(secret.fingerprint()) == 32


def test_a_traceback_with_locals_shows_no_environment() -> None:
    """Variables that are being read do not show when reading fails."""

    def read(environment: Environment) -> None:
        environment.secret("KEY")
        raise ValueError(repr(environment))

    with pytest.raises(ValueError, match="Environment") as caught:
        read(Environment({"KEY": CANARY}))
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
def test_an_echo_is_cut(echo: str, secret: str) -> None:
    """However a vendor writes it, nothing of the credential is left but the mark."""
    said = f"bad key: {ECHOES[echo](secret)} (end)"
    left = cut(said, [Secret("other-secret"), Secret(secret)])
    assert CUT in left
    for form in ECHOES.values():
        assert form(secret).strip('{}"') not in left


OTHER = st.text(alphabet=st.characters(exclude_categories=["Lu", "Cs"]), max_size=30)


@given(st.text(alphabet=st.characters(categories=["Lu"]), min_size=4), OTHER, OTHER)
def test_cut_leaves_no_plain_secret(secret: str, before: str, after: str) -> None:
    """Whatever is around it, the mark stands where the credential stood."""
    assert cut(before + secret + after, [Secret(secret)]) == before + CUT + after


def test_what_is_too_short_is_left() -> None:
    """Three characters or fewer are in every text, and are no credential."""
    assert cut("a user abc", [Secret("abc"), Secret("")]) == "a user abc"


@given(st.integers(1, 200))
def test_a_secret_that_is_cut_off_is_cut(end: int) -> None:
    """Of a text that goes on, the piece of a credential at its end goes as well."""
    text = "ab " + CANARY * 10
    left = cut(text[: 3 + end], [Secret(CANARY)], more=True)
    assert left == "ab " + CUT * (end // len(CANARY))
