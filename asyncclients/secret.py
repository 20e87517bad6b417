"""Secrets: strings that repr, str, format and pickle do not show; and redaction.

A credential is wrapped on the first line of the function that receives it, so that a
traceback with local variables shows `Secret(...)`. `reveal()` is called only inside the
expression that uses the value.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import re
from collections.abc import Callable, Mapping
from hashlib import blake2b, pbkdf2_hmac
from html import escape
from typing import TYPE_CHECKING, Any, NoReturn, cast
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Iterable

REDACTED = "[credential]"
_SHORTEST_REDACTED = 4
_SLOW = 100_000
"""Iterations of the slow fingerprint: some 30 ms."""
_ESCAPE = re.compile("%[0-9A-F]{2}")


class Secret:
    """Wraps *value*, a non-empty string, or a function that returns one; `reveal` returns it."""

    __slots__ = ("reveal",)

    def __init__(self, value: CredentialSource) -> None:
        # In a function: vars() and crash reporters see no text.
        plain: Any = value.reveal() if isinstance(value, Secret) else value
        self.reveal: Callable[[], str] = plain.__str__ if type(plain) is str else lambda: plain

    def renewed(self) -> Secret:
        """Return the current value of a secret that rotates, which may block; else this one."""
        return self

    def fingerprint(self, context: str = "") -> str:
        """Return a one-way name of this secret, the same in every process (32 hex digits)."""
        digest = blake2b(self.reveal().encode(), digest_size=16, person=b"asyncclients")
        digest.update(context.encode())
        return digest.hexdigest()

    def slow_fingerprint(self, context: str) -> str:
        """Return a one-way name that is too slow to find a short secret by brute force."""
        secret, salt = self.reveal().encode("utf-8", "surrogatepass"), context.encode()
        return pbkdf2_hmac("sha256", secret, salt, _SLOW, 16).hex()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.reveal().encode(), other.reveal().encode())

    def __hash__(self) -> int:
        return hash(self.reveal())

    def __repr__(self) -> str:
        return "Secret(...)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled")


class RotatingSecret(Secret):
    """The value that *read* returns now; `renewed` calls it again."""

    __slots__ = ("_read",)

    def __init__(self, read: Callable[[], CredentialSource]) -> None:
        super().__init__(read())
        self._read = read

    def renewed(self) -> Secret:
        """Return the value that the function returns now."""
        return RotatingSecret(self._read)


CredentialSource = str | Secret | Callable[[], str]
"""A credential, or a function that returns its current value and is called again after a 401."""
FilePath = str | os.PathLike[str]
"""Path of a file."""


def sealed(value: CredentialSource | None) -> Secret | None:
    """Return *value* as a `Secret`; None for None."""
    return None if value is None else Secret(value)


def sealed_environment(variables: Mapping[str, str] | None) -> dict[str, Secret] | None:
    """Return *variables*, by default those of the process, without the empty ones.

    None if they are no mapping: an error raised here would show them.
    """
    given = os.environ if variables is None else variables
    if not isinstance(cast("object", given), Mapping):
        return None
    return {name: Secret(value) for name, value in given.items() if value}


_ENCODERS: tuple[Callable[[str], str], ...] = (
    str,
    lambda text: base64.b64encode(text.encode()).decode(),
    lambda text: quote(text, safe=""),
    lambda text: _ESCAPE.sub(lambda found: found[0].lower(), quote(text, safe="")),
    quote_plus,
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),  # as PHP writes it
    escape,
)


def redact(text: str, secrets: Iterable[Secret], *, more: bool = False) -> str:
    """Return *text* with *secrets* replaced, in every form in which servers echo them.

    If *text* is the start of a longer one (*more*), the start of a secret at its end is
    removed as well.
    """
    forms = [form for secret in secrets for form in _forms(secret)]
    for form in forms:
        text = text.replace(form.reveal(), REDACTED)
    if more:
        text = text.rstrip("\ufffd")
        for form in forms:
            text = _without_start_of(form, text)
    return text


def _without_start_of(form: Secret, text: str) -> str:
    """Return *text* without a start of *form* at its end."""
    for size in range(min(len(form.reveal()), len(text)), 0, -1):
        if text.endswith(form.reveal()[:size]):
            return text[:-size]
    return text


def _forms(secret: Secret) -> Iterable[Secret]:
    """Return *secret* literally, in base64, and escaped for URLs, JSON and HTML; longest first."""
    if len(secret.reveal()) < _SHORTEST_REDACTED:
        return ()
    forms = {Secret(encode(secret.reveal())) for encode in _ENCODERS}
    return sorted(forms, key=lambda form: len(form.reveal()), reverse=True)
