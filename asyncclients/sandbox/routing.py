"""From method and path to the function that answers.

A pattern is written like the vendor's manual writes it, `/tags/{uuid}`: words
match themselves, a name in braces matches any one non-empty segment. Segments
are compared after decoding, so an id that holds `%2F` stays one segment. One
trailing slash is ignored; a doubled slash is a different, unknown path. Routes
are tried in their order, so a literal goes before a placeholder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .exchange import Reply, SandboxRequest

S = TypeVar("S")


def segments_of(raw_path: str) -> tuple[str, ...]:
    """The decoded segments of *raw_path*, without those of the leading and one trailing slash."""
    parts = raw_path.split("/")[1:]
    if parts and not parts[-1]:
        parts.pop()
    return tuple(unquote(part) for part in parts)


@dataclass(frozen=True, slots=True)
class Route(Generic[S]):
    """One operation: *handler* answers *methods* (separated by spaces) on *pattern*."""

    methods: str
    pattern: str
    handler: Callable[[S, SandboxRequest], Reply]


@dataclass(frozen=True, slots=True)
class Match(Generic[S]):
    """The route that fits a path, and what stands at its placeholders."""

    route: Route[S]
    ids: tuple[str, ...]


class Router(Generic[S]):
    """Finds the route of a call among the routes of one vendor."""

    def __init__(self, routes: Sequence[Route[S]]) -> None:
        self._routes = [(segments_of(route.pattern), route) for route in routes]

    def matches(self, segments: tuple[str, ...]) -> list[Match[S]]:
        """Every route whose pattern fits *segments*, whatever its methods."""
        found: list[Match[S]] = []
        for pattern, route in self._routes:
            ids = _fit(pattern, segments)
            if ids is not None:
                found.append(Match(route, ids))
        return found


def _fit(pattern: tuple[str, ...], segments: tuple[str, ...]) -> tuple[str, ...] | None:
    if len(pattern) != len(segments):
        return None
    ids: list[str] = []
    for word, segment in zip(pattern, segments, strict=True):
        if word.startswith("{"):
            if not segment:
                return None
            ids.append(segment)
        elif word != segment:
            return None
    return tuple(ids)
