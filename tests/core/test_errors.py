"""The tree of errors: the fields of each class, and pickling."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from asyncclients import errors
from asyncclients.errors import (
    AsyncClientsError,
    AttemptTimeoutError,
    ConfigurationError,
    ConnectError,
    DeadlineExceededError,
    NoResponseError,
    RateLimitedError,
    StatusError,
    TokenError,
    UnprocessableEntityError,
)

CLASSES = sorted(
    (
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, AsyncClientsError)
    ),
    key=lambda cls: cls.__name__,
)
FACTS: dict[str, Any] = {
    "vendor": "intouch",
    "operation": "contacts.create",
    "method": "POST",
    "path": "/contacts",
    "status": 422,
    "attempts": 3,
    "advice": "Correct it",
    "excerpt": "no",
    "request_id": "r-1",
}


@pytest.mark.parametrize("cls", CLASSES)
def test_error_survives_pickle_and_copy(cls: type[AsyncClientsError]) -> None:
    """An error that was pickled or copied is equal, of the same class, with the same text."""
    error = cls("happened", **FACTS)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert again == error
        assert type(again) is cls
        assert (str(again), repr(again), hash(again)) == (str(error), repr(error), hash(error))
    assert copy.copy(error) == copy.deepcopy(error) == error


def test_own_facts_survive_a_pickle() -> None:
    """The fields of single classes are pickled: eta, retry_after, errors, sent."""
    for error in (
        DeadlineExceededError("late", eta=2.5),
        RateLimitedError("refused", retry_after=60.0),
        UnprocessableEntityError("no", errors={"email": ["taken"]}),
        NoResponseError("gone", sent="no"),
    ):
        assert pickle.loads(pickle.dumps(error)) == error
    late: DeadlineExceededError = pickle.loads(pickle.dumps(DeadlineExceededError("late", eta=2.5)))
    assert late.eta == 2.5


def test_foreign_attributes_do_not_break_pickle() -> None:
    """Notes are pickled, attributes of other libraries dropped; neither affects equality."""
    error = ConnectError("no", vendor="emma")
    error.add_note("row 7")
    error.seen_by_reporter = object()  # type: ignore[attr-defined]
    again = pickle.loads(pickle.dumps(error))
    assert again == error == ConnectError("no", vendor="emma")
    assert again.__notes__ == ["row 7"]
    assert error.with_facts(status=1).status == 1


def test_errors_differ_by_class_message_and_facts() -> None:
    """Errors are equal if class, message and fields are equal; other types are not compared."""
    assert StatusError("a", status=1) != StatusError("a", status=2)
    assert StatusError("a") != StatusError("b")
    assert StatusError("a") != AsyncClientsError("a")
    assert StatusError("a") != "a"


def test_unknown_field_is_a_type_error() -> None:
    """A misspelled field, or the name of an attribute of every object, raises `TypeError`."""
    for name in ("statuss", "__class__", "message", "args", "with_traceback"):
        with pytest.raises(TypeError):
            AsyncClientsError("x", **{name: 1})


def test_with_facts_fills_missing_fields_only() -> None:
    """`with_facts` fills missing fields, and replaces none."""
    error = DeadlineExceededError("would wait", eta=4.0, vendor="emma")
    full = error.with_facts(vendor="other", operation="x", attempts=0)
    assert (full.message, full.eta, full.vendor, full.operation) == ("would wait", 4.0, "emma", "x")
    assert type(full) is DeadlineExceededError


def test_text_has_call_excerpt_and_advice() -> None:
    """The text has call, attempts, excerpt, request id and advice."""
    text = str(StatusError("answered 422", **FACTS))
    assert text == (
        "intouch.contacts.create (POST /contacts) answered 422 (after 3 attempts): no "
        "[request id r-1]. Correct it"
    )
    assert str(AsyncClientsError()) == "failed"
    assert str(AsyncClientsError("x", method="GET", path="/a")) == "GET /a x"


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (ConfigurationError, ValueError),
        (DeadlineExceededError, TimeoutError),
        (AttemptTimeoutError, TimeoutError),
    ],
)
def test_errors_are_what_python_calls_them(
    error: type[AsyncClientsError], builtin: type[Exception]
) -> None:
    """Errors with an equivalent in Python, such as `TimeoutError`, can be caught as that."""
    assert issubclass(error, builtin)


def test_missing_response_and_error_response_are_separate() -> None:
    """A missing response and an error response are separate branches of the tree."""
    branches = (NoResponseError, StatusError, TokenError)
    for cls in CLASSES:
        assert sum(issubclass(cls, branch) for branch in branches) <= 1
    assert ConnectError("x").sent == "no"
    assert AttemptTimeoutError("x").sent == "maybe"
