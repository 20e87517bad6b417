"""A string that gives nothing away: not by repr, str, format, pickle or comparison.

Credentials are wrapped on the first line of whatever receives them, so that a
traceback printed with local variables shows `Secret(...)`. `reveal()` is
called only inside the expression that hands the value to the wire.
"""

from __future__ import annotations

import base64
import hmac
from hashlib import blake2b
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

CUT = "[credential]"
_SHORTEST_TO_CUT = 4


class Secret:
    """Wraps *value*, a non-empty string."""

    __slots__ = ("_reveal",)

    def __init__(self, value: str | Secret) -> None:
        # Held in a closure: vars(), __slots__ walkers and crash reporters see a function.
        plain = value.reveal() if isinstance(value, Secret) else value
        self._reveal: Callable[[], str] = lambda: plain

    def reveal(self) -> str:
        """The value itself."""
        return self._reveal()

    def fingerprint(self, context: str = "") -> str:
        """A one-way name for this secret, the same in every process (32 hex digits)."""
        digest = blake2b(self._reveal().encode(), digest_size=16, person=b"asyncclients")
        digest.update(context.encode())
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._reveal().encode(), other.reveal().encode())

    def __hash__(self) -> int:
        return hash(self._reveal())

    def __repr__(self) -> str:
        return "Secret(...)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled")


class Environment:
    """Environment variables, of which a traceback shows nothing."""

    __slots__ = ("_get",)

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._get: Callable[[str], str | None] = variables.get

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self._get(name))

    def secret(self, name: str) -> Secret:
        """The value of *name*, wrapped."""
        return Secret(self._get(name) or "")

    def setting(self, name: str) -> str:
        """The value of *name*, which is not a credential."""
        return self._get(name) or ""

    def __repr__(self) -> str:
        return "Environment(...)"


def cut(text: str, secrets: Iterable[Secret]) -> str:
    """*text* without any of *secrets*, plain, percent-encoded or in base64."""
    for secret in secrets:
        plain = secret.reveal()
        if len(plain) < _SHORTEST_TO_CUT:
            continue
        for form in (plain, quote(plain, safe=""), base64.b64encode(plain.encode()).decode()):
            text = text.replace(form, CUT)
    return text
