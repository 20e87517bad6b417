"""Endpoints, path segments, options and lanes: the values of a call."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from asyncclients.core.codec import JsonObject
from asyncclients.core.endpoint import Endpoint, Resource, encode_segment, endpoint_of, operation
from asyncclients.core.options import Options, call_context, current_call_context
from asyncclients.core.prepare import prepare
from asyncclients.errors import ConfigurationError
from asyncclients.ratelimit.quota import Priority

GET = Endpoint("things.get", "GET", "things/{uuid}/parts/{part}", JsonObject, idempotent=True)
BASE = "https://api.example.com/v1/"


@given(st.text())
@example("../admin")
@example("a/b?c#d%2e")
@example("..%2f")
@example("…")
@example("\u2028")
@example("%00")
def test_id_is_rejected_or_one_segment(text: str) -> None:
    """Any text is rejected, or sent as one segment that decodes to the same text."""
    try:
        request = GET.request(uuid=text, part="p")
    except ValueError:
        refused = text in ("", ".", "..") or any(_unwanted(c) for c in text)
        assert refused
        return
    sent = prepare(BASE, request, None).url.raw_path
    assert sent.split("/")[:3] == ["", "v1", "things"]
    assert sent.split("/")[4:] == ["parts", "p"]
    assert unquote(sent.split("/")[3]) == text
    assert sent == URL(BASE + request.path, encoded=True).raw_path


def _unwanted(character: str) -> bool:
    return ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 or character in "\u2028\u2029"


@pytest.mark.parametrize("text", ["", ".", "..", "a\x00", "a\nb", "\x7f", "a\x85b", "\ud800"])
def test_id_that_would_change_the_path_is_rejected(text: str) -> None:
    """The error names the parameter and the reason."""
    with pytest.raises(ValueError, match="uuid must not"):
        GET.request(uuid=text, part="p")


def test_dots_in_a_longer_id_travel() -> None:
    """Only whole segments of dots change a path."""
    assert encode_segment("../admin") == "..%2Fadmin"
    assert encode_segment("...") == "..."
    assert encode_segment("a.b") == "a.b"


@pytest.mark.parametrize("given_", [{}, {"uuid": "a"}, {"uuid": "a", "part": "b", "more": "c"}])
def test_missing_or_unknown_parameter_is_an_error(given_: dict[str, Any]) -> None:
    """A missing or unknown parameter raises an error that lists the placeholders."""
    with pytest.raises(TypeError, match=r"takes \['part', 'uuid'\]"):
        GET.request(**given_)
    assert GET.placeholders == ("uuid", "part")


def test_request_may_override_idempotency() -> None:
    """The endpoint decides whether a request is idempotent, unless the request overrides it."""
    create = Endpoint("things.create", "POST", "things", JsonObject, idempotent=False)
    assert not create.request().idempotent
    assert create.request(idempotent=True).idempotent


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST", "PATCH"])
def test_endpoint_is_idempotent_if_its_method_is(method: Any) -> None:
    """GET, PUT and DELETE are idempotent by default, POST and PATCH are not."""
    is_idempotent = method in {"GET", "PUT", "DELETE"}
    assert Endpoint("things.do", method, "things", JsonObject).idempotent is is_idempotent
    opposite = Endpoint("things.do", method, "things", JsonObject, idempotent=not is_idempotent)
    assert opposite.idempotent is not is_idempotent


def test_operation_sets_the_endpoint() -> None:
    """`@operation` sets the endpoint as an attribute and returns the same function."""

    class Things(Resource):
        @operation(GET)
        async def get(self) -> str:
            """Doc."""
            return "got"

    assert endpoint_of(Things.get) is GET
    assert endpoint_of(Things.__init__) is None
    assert endpoint_of(len) is None
    assert Things.get.__doc__ == "Doc."


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": -1.0},
        {"timeout": float("nan")},
        {"deadline": float("inf")},
        {"deadline": 0.0},
        {"max_attempts": 0},
        {"priority": 7},
        {"priority": "background"},
    ],
)
def test_invalid_options_are_rejected(options: dict[str, Any]) -> None:
    """Invalid options are rejected at once, with name and advice."""
    with pytest.raises(ConfigurationError, match=next(iter(options))) as caught:
        Options(**options)
    assert caught.value.advice


async def test_call_context_applies_to_tasks_inside() -> None:
    """Tasks started inside a `call_context` have it, others do not, and it ends with the block."""
    seen: list[Any] = []

    async def look() -> None:
        seen.append(current_call_context())

    with call_context(Priority.BACKGROUND, "job"):
        inside = asyncio.create_task(look())
    await asyncio.gather(inside, look())
    assert seen[0].priority is Priority.BACKGROUND
    assert seen[0].flow == "job"
    assert seen[1] is None
