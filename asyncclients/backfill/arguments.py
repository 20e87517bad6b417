"""Check the arguments of `pull` and `push`, before anything is read or sent."""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from math import isfinite
from pathlib import Path
from typing import Any

from asyncclients.arguments import check_quota_share, did_you_mean
from asyncclients.core.client import VendorClient
from asyncclients.core.endpoint import Resource, endpoint_of
from asyncclients.errors import ConfigurationError
from asyncclients.paging import Paginator


def check_keywords(function: Callable[..., Any], misspelt: Iterable[str]) -> None:
    """Raise `ConfigurationError` if *misspelt* is not empty; name the keywords of *function*."""
    names = ", ".join(misspelt)
    if names:
        known = inspect.signature(function).parameters.values()
        keywords = (each.name for each in known if each.kind is each.KEYWORD_ONLY)
        taken = [*keywords]
        hint = did_you_mean(names, taken)
        raise _wrong(
            f"{function.__name__} has no argument {names}{hint}", f"It takes {', '.join(taken)}"
        )


def check_int(name: str, value: Any, least: int) -> None:
    """Raise `ConfigurationError` unless *value* is an int of at least *least*."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise _wrong(f"{name} must be a whole number of at least {least}, not {value!r}")


def check_share(name: str, value: Any) -> None:
    """Raise `ConfigurationError` unless *value* is a number from 0 to 1."""
    if not _is_number(value) or not 0 <= value <= 1:
        raise _wrong(f"{name} must be a number from 0 to 1, not {value!r}")


def check_seconds(name: str, value: Any) -> None:
    """Raise `ConfigurationError` unless *value* is a number of at least 0, possibly infinite."""
    if not _is_number(value) or not value >= 0:
        raise _wrong(f"{name} must be a number of seconds of at least 0, not {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_delivery(
    concurrency: int,
    batch: int | None,
    max_failed: float,
    max_outage: float,
    limit: int | None = None,
    *,
    share: float | None = None,
) -> None:
    """Raise `ConfigurationError` if an option of a push is out of range."""
    check_int("concurrency", concurrency, 1)
    if batch is not None:
        check_int("batch", batch, 0)
    check_share("max_failed", max_failed)
    check_seconds("max_outage", max_outage)
    if limit is not None:
        check_int("limit", limit, 1)
    if share is not None:
        check_quota_share(share)


def check_push(source: Any, target: Any, state: Any) -> None:
    """Raise `ConfigurationError` if one of the arguments that every push has is unusable."""
    check_path("state", state)
    check_rows(source)
    check_target(target)


def check_sync(source: Any, state: Any, progress: Any) -> None:
    """Raise `ConfigurationError` if one of the arguments that every sync has is unusable."""
    check_path("state", state)
    check_rows(source)
    check_function("progress", progress)


def check_callbacks(reconcile: Any, progress: Any) -> None:
    """Raise `ConfigurationError` unless each is None or a function of its kind."""
    check_coroutine_function("reconcile", reconcile)
    check_function("progress", progress)


def check_path(name: str, value: Any) -> None:
    """Raise `ConfigurationError` unless *value* is the path of a file, as a str or `PathLike`."""
    try:
        file = Path(value).name
    except TypeError:
        file = ""
    if not file:
        raise _wrong(f"{name} must be the path of a file, not {value!r}", f"As in {name}='job.db'")


def check_target_path(value: Any) -> None:
    """Raise `ConfigurationError` if *value*, the `to` of a pull, is neither a path nor a sink."""
    if value is None or isinstance(value, (str, bytes, os.PathLike)):
        check_path("to", value)


def check_flags(**flags: Any) -> None:
    """Raise `ConfigurationError` unless each of *flags* is True, False or None."""
    for name, value in flags.items():
        if value is not None and not isinstance(value, bool):
            raise _wrong(f"{name} must be True, False or None, not {value!r}")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise `ConfigurationError` unless *value* is one of *choices*."""
    if value not in choices:
        raise _wrong(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")


def check_target(target: Any) -> None:
    """Raise `ConfigurationError` unless *target* can be called with a row and awaited."""
    if isinstance(target, (Resource, VendorClient)):
        raise _wrong(
            f"target is {target!r}, not one of its methods",
            "Give the method that takes a row, as totango.touchpoints.create",
        )
    if inspect.isawaitable(target):
        close_coroutine(target)
        raise _wrong(
            f"target is {target!r}, not a function",
            "Give the function itself, without calling it: create, not create(...)",
        )
    if isinstance(target, type) or not callable(target) or _is_generator(target):
        raise _wrong(
            f"target must be a coroutine function of one argument, not {target!r}",
            "Give an operation, as totango.touchpoints.create, or an `async def` function",
        )
    try:
        inspect.signature(target).bind("a row")
    except TypeError as bad:
        raise _wrong(
            f"target cannot be called with a row alone: {bad}",
            "Bind its other arguments, as in functools.partial(intouch.contacts.update, uuid)",
        ) from None
    except ValueError:  # a function in C may have no signature
        return


def check_lag(lag: Any) -> None:
    """Raise `ConfigurationError` unless *lag* is a finite number of at least 0."""
    check_seconds("lag", lag)
    if not isfinite(lag):
        raise _wrong("lag must be finite", "Leave `since` out: the whole list is read then")


def check_since(source: Any, since: Any) -> None:
    """Raise `ConfigurationError` unless the list *source* can be sorted by the field *since*."""
    if not isinstance(since, str) or not since:
        raise _wrong(
            f"since must be the name of a field, not {since!r}", "As in since='updated_at'"
        )
    if not isinstance(source, Paginator) or source.newest_first is None:
        raise _wrong(
            f"this list cannot be sorted by {since!r}, newest first",
            "Leave `since` out: the whole list is read then",
        )
    source.newest_first(since)


def check_function(name: str, value: Any) -> None:
    """Raise `ConfigurationError` unless *value* is None or a plain function."""
    if value is None:
        return
    close_coroutine(value)
    if not callable(value) or _is_asynchronous(value) or _is_generator(value):
        raise _wrong(f"{name} must be a plain function of one argument, not {value!r}")


def check_coroutine_function(name: str, value: Any) -> None:
    """Raise `ConfigurationError` unless *value* is None or may be a coroutine function."""
    if value is not None:
        close_coroutine(value)
        if not callable(value) or isinstance(value, type) or _is_generator(value):
            raise _wrong(f"{name} must be a coroutine function of one argument, not {value!r}")


def check_rows(rows: Any) -> None:
    """Raise `ConfigurationError` unless *rows* can give the same rows in every run."""
    problem, advice = "", "Give the path of a file, or an iterable of rows"
    if isinstance(rows, (str, os.PathLike)):
        return
    if isinstance(rows, (bytes, bytearray, memoryview)):
        problem = "bytes are not rows"
    elif isinstance(rows, Mapping):
        problem = "a mapping is a single row"
        advice = "Give a list of mappings"
    elif isinstance(rows, AbstractSet):
        problem = "a set has no order, so a resumed job would not know which rows were sent"
        advice = "Give a list, as sorted(rows)"
    elif callable(rows) and endpoint_of(rows) is not None:
        problem = "an operation is the target"
        advice = "Give the rows first, as in push('people.csv', intouch.contacts.create, ...)"
    elif not isinstance(rows, (Iterable, AsyncIterable)) and not hasattr(rows, "__getitem__"):
        problem = f"{rows!r} cannot be iterated"
        if callable(rows):
            advice = "Call the function, and pass its result"
    if problem:
        close_coroutine(rows)
        raise _wrong(f"the source of a push cannot be used: {problem}", advice)


def close_coroutine(value: Any) -> None:
    """Close *value* if it is a coroutine, so that Python does not warn about it."""
    if inspect.iscoroutine(value):
        value.close()


def _is_asynchronous(value: Any) -> bool:
    call = getattr(value, "__call__", None)  # noqa: B004 - the method, if value is an object
    return inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(call)


def _is_generator(value: Any) -> bool:
    return inspect.isasyncgenfunction(value) or inspect.isgeneratorfunction(value)


def _wrong(message: str, advice: str = "Correct the argument") -> ConfigurationError:
    return ConfigurationError(message, advice=advice)
