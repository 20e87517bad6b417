"""Values in a path: each is exactly one segment, whatever it holds.

A value that would change the path is refused, and all else is percent-encoded
(RFC 3986 §2.1, §3.3): `../admin` travels as one segment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def placeholders(template: str) -> tuple[str, ...]:
    """The names in braces, in path order."""
    return tuple(_PLACEHOLDER.findall(template))


def expand(template: str, values: Mapping[str, str]) -> str:
    """*template* with each placeholder replaced by its value, as one segment.

    Raises:
        ValueError: a value cannot be a segment.
        TypeError: a value is missing or unknown.
    """
    names = placeholders(template)
    if set(names) != set(values):
        raise TypeError(f"{template} takes {sorted(names)}, got {sorted(values)}")
    return _PLACEHOLDER.sub(lambda match: encode_segment(values[match[1]], match[1]), template)


def encode_segment(value: object, name: str = "id") -> str:
    """*value* percent-encoded so that it is exactly one path segment.

    Raises:
        ValueError: for an empty value, `.`, `..`, or control characters.
    """
    text = "" if value is None else str(value)
    if text in ("", ".", ".."):
        raise ValueError(f"{name} must not be {text!r}: it would change the path")
    if _CONTROL.search(text):
        raise ValueError(f"{name} must not contain control characters: {text!r}")
    return quote(text, safe="")
