"""Checks of arguments. Each raises a `ConfigurationError` that shows the right form."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

import msgspec
from msgspec import Meta

from asyncclients.errors import ConfigurationError

_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CLOSE = 0.55
"""Similarity of a name to suggest: that of `de` and `de_DE`."""
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")


def shown(value: object) -> str:
    """Return *value* for an error message: numbers and text literally, others by their type."""
    if value is None or isinstance(value, (bool, float, str)):
        return repr(value)[:80]
    if isinstance(value, int):
        return repr(value) if abs(value) < 10**30 else "an int of many digits"
    return kind_of(value) if isinstance(value, type) else f"a value of type {kind_of(value)}"


def kind_of(value: object) -> str:
    """Return the name of the type of *value*, for an error message; of a class, its own name."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    kind = type(value)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{module}{kind.__qualname__}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'b'?)` with the one of *known* closest to *name*; empty if none is."""
    names = {each.casefold(): each for each in known}
    close = get_close_matches(name.casefold(), names, n=1, cutoff=_CLOSE)
    return f" (did you mean {names[close[0]]!r}?)" if close else ""


def wrong_argument(
    name: str, rule: str, value: object, form: str, *, advice: str = ""
) -> ConfigurationError:
    """Return the error for the *value* of argument *name*, which must be *rule*.

    *form* is the right form, as source text; *advice* replaces the sentence that shows it.
    """
    return ConfigurationError(
        f"{name} must be {rule}, not {shown(value)}", advice=advice or f"Write it as in {form}"
    )


def is_seconds(value: object, *, zero: bool = False) -> bool:
    """Return True if *value* is a finite number above 0, or 0 where *zero* is accepted."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return (value >= 0 if zero else value > 0) and value <= sys.float_info.max


def check_seconds(name: str, value: object, *, zero: bool = False, advice: str = "") -> None:
    """Check that *value* is a finite number of seconds above 0, or from 0 where *zero* is accepted."""
    if not is_seconds(value, zero=zero):
        rule = f"a finite number of seconds {'of at least 0' if zero else 'above 0'}"
        raise wrong_argument(name, rule, value, f"{name}=30.0", advice=advice)


def check_type(name: str, value: object, kind: type | tuple[type, ...], form: str) -> None:
    """Check that *value* is an instance of *kind*; *form* is the right form, as source text."""
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise wrong_argument(name, " or ".join(_words_of(each)[0] for each in kinds), value, form)


def check_text(name: str, value: object, form: str) -> None:
    """Check that *value* is a text that is not empty; *form* is the right form, as source text."""
    if not isinstance(value, str) or not value:
        raise wrong_argument(name, "text that is not empty", value, form)


def check_mapping(name: str, value: object) -> None:
    """Check that *value* is a mapping, or None."""
    if value is not None and not isinstance(value, Mapping):
        raise wrong_argument(name, "a mapping", value, f"{name}={{'name': 'value'}}")


def check_headers(headers: Any) -> None:
    """Check that HTTP can carry *headers*; the error does not show a value, which may be secret."""
    check_mapping("headers", headers)
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            kind = type(value if isinstance(name, str) else name).__name__
            raise ConfigurationError(
                f"headers: names and values must be str; the header {shown(name)} has a {kind}",
                advice="Write them as text, as in headers={'X-Trace': '1'}",
            )
        if not _FIELD_NAME.fullmatch(name) or _CONTROL.search(value):
            raise ConfigurationError(
                f"headers: the header {name!r} has characters that no header may have",
                advice="Look for a newline at the end, as from a file that was read whole",
            )


NaturalInt = Annotated[int, Meta(ge=0, description="a whole number of at least 0", examples=[3])]
PositiveInt = Annotated[int, Meta(ge=1, description="a whole number of at least 1", examples=[3])]
Ratio = Annotated[float, Meta(ge=0, le=1, description="a number from 0 to 1", examples=[0.1])]
QuotaShare = Annotated[
    float, Meta(gt=0, le=1, description="a number above 0 and at most 1", examples=[0.6])
]
Seconds = Annotated[
    float, Meta(ge=0, description="a number of seconds of at least 0", examples=[30.0])
]


def check_value(name: str, value: object, kind: Any, *, advice: str = "") -> None:
    """Check that *value* is of the type *kind*, which may have constraints of msgspec."""
    try:
        if isinstance(value, Decimal):  # fits a float for msgspec, but cannot be added to one
            raise msgspec.ValidationError  # noqa: TRY301 - handled as the error of `convert`
        msgspec.convert(value, kind)
    except TypeError:
        return  # msgspec does not know unions of callables and other types
    except msgspec.ValidationError:
        rule, example = _words_of(kind)
        raise wrong_argument(name, rule, value, f"{name}={example}", advice=advice) from None


def _words_of(kind: Any) -> tuple[str, str]:
    """Return what a value of the type *kind* must be, in words, and an example."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return str(arguments[1].description), str(arguments[1].examples[0])
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}", repr(arguments[0])
    if origin in (Union, UnionType):
        rules, examples = zip(*map(_words_of, arguments), strict=True)
        return " or ".join(rules), examples[0]
    name = "None" if kind is NoneType else str((origin or kind).__name__)
    return name, "True" if kind is bool else "..."


def check_fields(options: msgspec.Struct) -> None:
    """Check the fields of *options* by `check_value`, unless their types name callables."""
    for field in msgspec.structs.fields(options):
        check_value(field.name, getattr(options, field.name), field.type)


def check_keywords(function: Callable[..., Any], misspelt: Iterable[str]) -> None:
    """Raise `ConfigurationError` if *misspelt* is not empty; name the keywords of *function*."""
    if names := ", ".join(misspelt):
        parameters = inspect.signature(function).parameters.values()
        known = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
        raise ConfigurationError(
            f"{function.__name__} has no argument {names}{did_you_mean(names, known)}",
            advice=f"It takes {', '.join(known)}",
        )


def check_path(name: str, value: Any) -> None:
    """Raise `ConfigurationError` unless *value* is the path of a file."""
    if not isinstance(value, (str, PathLike)) or not Path(str(cast("object", value))).name:
        raise ConfigurationError(
            f"{name} must be the path of a file, not {value!r}", advice=f"As in {name}='job.db'"
        )


def check_function(
    name: str, value: Any, *, may_be_async: bool = False, advice: str = "Do not call it yourself"
) -> None:
    """Raise `ConfigurationError` unless *value* is None or a function that can be called."""
    close_coroutine(value)
    call = getattr(value, "__call__", None)  # noqa: B004 - the method, if value is an object
    is_async = inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(call)
    if value is not None and (
        not callable(value) or is_generator(value) or (is_async and not may_be_async)
    ):
        kind = "coroutine" if may_be_async else "plain"
        raise ConfigurationError(
            f"{name} must be a {kind} function of one argument, not {value!r}", advice=advice
        )


def is_generator(value: Any) -> bool:
    """Return whether *value* is a function with `yield`."""
    return inspect.isasyncgenfunction(value) or inspect.isgeneratorfunction(value)


def close_coroutine(value: Any) -> None:
    """Close *value* if it is a coroutine, so that Python does not warn about it."""
    if inspect.iscoroutine(value):
        value.close()
