"""Paths and routes, as plain values."""

from __future__ import annotations

import pytest

from asyncclients.sandbox.vendor import Reply, Route, Router, SandboxRequest, segments_of


@pytest.mark.parametrize(
    ("path", "segments"),
    [
        ("/", ()),
        ("/tags", ("tags",)),
        ("/tags/", ("tags",)),
        ("/tags//x", ("tags", "", "x")),
        ("/tags/..%2Fadmin", ("tags", "../admin")),
        ("/tags/a%20b", ("tags", "a b")),
    ],
)
def test_segments_are_split_before_decoding(path: str, segments: tuple[str, ...]) -> None:
    """An encoded slash does not split; one trailing slash is ignored, a doubled one is not."""
    assert segments_of(path) == segments


def _answer(state: object, call: SandboxRequest) -> Reply:
    del state, call
    return Reply(200)


@pytest.mark.parametrize(
    ("path", "ids"),
    [
        ("/a/members", [(), ("members",)]),
        ("/a/7", [("7",)]),
        ("/a/", []),
        ("/a//", []),
        ("/b/7", []),
    ],
)
def test_routes_match_in_order(path: str, ids: list[tuple[str, ...]]) -> None:
    """Literals and placeholders match whole segments; an empty one is no id."""
    router = Router([Route("GET", "/a/members", _answer), Route("GET", "/a/{id}", _answer)])
    assert [match.ids for match in router.matches(segments_of(path))] == ids
