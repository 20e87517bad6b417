"""Paths and routes, as plain values."""

from __future__ import annotations

import pytest

from asyncclients.sandbox.vendor import Route, segments_of


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


@pytest.mark.parametrize(
    ("pattern", "path", "ids"),
    [
        ("/a/members", "/a/members", ()),
        ("/a/members", "/a/7", None),
        ("/a/{id}", "/a/members", ("members",)),
        ("/a/{id}", "/a/7", ("7",)),
        ("/a/{id}", "/a/7/", ("7",)),
        ("/a/{id}", "/a/", None),
        ("/a/{id}", "/a//", None),
        ("/a/{id}", "/b/7", None),
    ],
)
def test_routes_match_whole_segments(pattern: str, path: str, ids: tuple[str, ...] | None) -> None:
    """Literals and placeholders match whole segments; an empty one is no id."""
    assert Route("GET", pattern).match(segments_of(path)) == ids
