"""Checks of the values that a call sends, before anything is sent.

A struct is converted to a *form* of its type: a type of the same fields in which each annotation
is replaced by what may be sent. In the strict form a [`Constraint`][asyncclients.core.constraints.Constraint]
stands for its own type, such as a text of at most 255 characters; in the lenient form only the
types of the fields are checked. The struct is encoded as MessagePack and decoded as its form, so
that correct values cost less than half a microsecond; the reason is looked for only if that fails.
Unlike JSON, MessagePack keeps text apart from bytes, which JSON would send in base64.

A struct that callers do not construct, such as the body of a batch, has the class attribute
`label = ""`, so that errors name its fields only. msgspec itself does not check a struct that is
constructed in Python: https://jcristharif.com/msgspec/structs.html#type-validation
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
from msgspec import NODEFAULT, UNSET, UnsetType

from asyncclients.arguments import did_you_mean
from asyncclients.core import codec
from asyncclients.core.auth import Login
from asyncclients.core.endpoint import Endpoint
from asyncclients.core.vendor import Vendor
from asyncclients.errors import InvalidValueError
from asyncclients.secret import redact

_WHOLE: Any = int | Annotated[float, msgspec.Meta(multiple_of=1)]
"""A whole number; those of data frames are floats."""
_WIDEST = 80
"""Most characters of a value that an error shows."""


class Constraint(msgspec.Struct, frozen=True):
    """A rule of a vendor's manual for the values of a field: `Annotated[str, Constraint(...)]`.

    Attributes:
        rule: the rule in words that follow "must be", as in `a text of at most 255 characters`.
        quote: the words of the manual.
        form: a type that msgspec converts exactly the valid values to.
        choices: the valid values, to suggest the one that was meant.
    """

    rule: str
    quote: str
    form: Any
    choices: tuple[str, ...] = ()

    def __repr__(self) -> str:
        # Documentation shows it in the annotation of the field.
        return f"Constraint({self.rule!r})"


class AnyOf(msgspec.Struct, frozen=True):
    """A rule of a vendor's manual: one of *fields* is required.

    *quote* is the words of the manual. A struct has its rules in the class attribute `constraints`.
    """

    fields: tuple[str, ...]
    quote: str


def text(most: int, quote: str, *, least: int = 0) -> Constraint:
    """Return the constraint of a text of *least* to *most* characters."""
    rule = f"a text of {f'{least} to' if least else 'at most'} {most:,} characters"
    return Constraint(rule, quote, Annotated[str, msgspec.Meta(min_length=least, max_length=most)])


def choice(choices: Sequence[str], quote: str, rule: str = "") -> Constraint:
    """Return the constraint of a text that is one of *choices*."""
    literal: Any = Literal
    form = literal[tuple(choices)]
    return Constraint(rule or f"one of {', '.join(choices)}", quote, form, tuple(choices))


class Problem(NamedTuple):
    """The first value of a struct that cannot be sent, and the rule or the type that it must have.

    If one of several fields is missing, *value* is NODEFAULT and *rule* has their names; *hint*
    names the value that was probably meant.
    """

    field: str
    value: Any
    rule: str
    quote: str = ""
    hint: str = ""


encode = msgspec.msgpack.Encoder(enc_hook=codec.encode_custom).encode
"""Encodes a struct for the function that `decoder_of` returns."""


@lru_cache(maxsize=512)
def decoder_of(cls: type[msgspec.Struct], strict: bool) -> Callable[[bytes], Any]:
    """Return the function that decodes values of *cls* as their form, or raises."""
    return msgspec.msgpack.Decoder(form_of(cls, strict), dec_hook=codec.decode_custom).decode


def _fits(value: Any, form: Any) -> bool:
    """Return True if *value*, with its keys as text, as in JSON, is a value of *form*."""
    try:
        plain = msgspec.to_builtins(
            value, enc_hook=codec.encode_custom, builtin_types=(bytes, bytearray), str_keys=True
        )
        msgspec.convert(plain, form, dec_hook=codec.decode_custom)
    except (msgspec.ValidationError, TypeError, RecursionError):
        return False
    return True


def find_problem(given: msgspec.Struct, strict: bool, path: str = "") -> Problem | None:
    """Return the first value in *given* that does not fit its form; None if there is none."""
    cls = type(given)
    if form_of(cls, strict) is Any:
        return None
    place = path or getattr(cls, "label", cls.__name__)
    hints = get_type_hints(cls, include_extras=True)
    for field in msgspec.structs.fields(cls):
        value, hint = getattr(given, field.name), hints[field.name]
        if (value is UNSET and not field.required) or _fits(value, _form_of(hint, strict)):
            continue
        name, constraint = f"{place}.{field.name}".lstrip("."), constraint_of(hint)
        for inner_path, item in _structs(name, value):
            if inner := find_problem(item, strict, inner_path):
                return inner
        if constraint is None or not _fits(value, _form_of(hint, False)):
            return Problem(name, value, _described(hint))
        close = did_you_mean(str(value), constraint.choices)
        return Problem(name, value, constraint.rule, constraint.quote, close)
    for group in constraints_of(cls) if strict else ():
        if all(getattr(given, name) in (None, UNSET) for name in group.fields):
            return Problem(place, NODEFAULT, " or ".join(group.fields), group.quote)
    return None


def _structs(name: str, value: object) -> Iterator[tuple[str, msgspec.Struct]]:
    """Yield *value*, or its items, with their places, if they are structs."""
    if isinstance(value, msgspec.Struct):
        yield name, value
    items = cast("Sequence[object]", value) if isinstance(value, (list, tuple)) else ()
    for number, item in enumerate(items):
        if isinstance(item, msgspec.Struct):
            yield f"{name}[{number}]", item


def invalid_value(
    problem: Problem, endpoint: Endpoint[Any], vendor: Vendor, login: Login | None
) -> InvalidValueError:
    """Return the error for *problem*, without the secrets of *login*."""
    field, given, rule, quote, hint = problem
    value = None if given is NODEFAULT else _shown(given, login)
    message = f"{field} needs {rule}" if value is None else f"{field} must be {rule}, not {value}"
    message, advice, source = f"{message}{hint}", "Correct the value", None
    if quote:
        source = f"{quote} ({vendor.manual})"
        message += f"; the manual: {source}"
        advice += "; SessionPool(validate=False) sends it unchecked"
    return InvalidValueError(
        message,
        vendor=vendor.name,
        operation=endpoint.operation,
        method=endpoint.method,
        advice=advice,
        field=field,
        value=value,
        rule=rule,
        source=source,
    )


def _shown(value: object, login: Login | None) -> str:
    written = redact(repr(value), () if login is None else login.secrets)
    if len(written) <= _WIDEST:
        return written
    size = f" ({len(value):,} characters)" if isinstance(value, str) else ""
    return f"{written[: _WIDEST - 1]}…{size}"


def constraint_of(hint: Any) -> Constraint | None:
    """Return the first constraint in *hint*, which may be a union."""
    if get_origin(hint) is Annotated:
        return next((each for each in get_args(hint) if isinstance(each, Constraint)), None)
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else ()
    return next(filter(None, map(constraint_of, members)), None)


def _described(hint: Any) -> str:
    """Return the type *hint* in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _described(arguments[0])
    if origin in (Union, UnionType):
        members = [each for each in arguments if each is not UnsetType]
        return " or ".join(dict.fromkeys(map(_described, members)))
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if hint is NoneType:
        return "None"
    if origin in (list, Sequence):
        return f"a list of {_described(arguments[0])}"
    kind: Any = origin or hint
    if hasattr(kind, "from_wire"):  # it is documented as the type that it is based on
        kind = next(base for base in kind.__mro__ if base.__module__ in ("builtins", "datetime"))
    return str(kind.__name__)


# --- Forms ------------------------------------------------------------------------


@lru_cache(maxsize=512)
def form_of(cls: type[msgspec.Struct], strict: bool) -> Any:
    """Return the form of a struct, with its constraints if *strict*; `Any` if there can be none."""

    def check(form: Any) -> None:
        for group in constraints_of(cls):
            if all(getattr(form, name) is None for name in group.fields):
                raise ValueError(group.fields)

    try:
        hints = get_type_hints(cls, include_extras=True)
        fields: list[tuple[str, Any, Any]] = []
        for field in msgspec.structs.fields(cls):
            default = NODEFAULT if field.required else None
            own = msgspec.field(default=default, name=field.encode_name)
            fields.append((field.name, _form_of(hints[field.name], strict), own))
        return msgspec.defstruct(
            cls.__name__,
            fields,
            namespace={"__post_init__": check} if strict and constraints_of(cls) else None,
            array_like=cls.__struct_config__.array_like,
            kw_only=True,
            gc=False,
        )
    except (TypeError, NameError, RecursionError):
        return Any


def constraints_of(cls: type[msgspec.Struct]) -> tuple[AnyOf, ...]:
    """Return the rules of a struct about several of its fields."""
    found: tuple[AnyOf, ...] = getattr(cls, "constraints", ())
    return found


def _form_of(hint: Any, strict: bool) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        constraint = constraint_of(hint)
        if constraint is None:
            base = int if arguments[0] is int else _form_of(arguments[0], strict)
            return Annotated[(base, *arguments[1:])]
        return _form_of(constraint.form if strict else arguments[0], strict)
    if origin is Literal:
        return hint if strict else _union({type(each) for each in arguments})
    if origin in (Union, UnionType):
        # A field that is UNSET is left out.
        members = [each for each in arguments if each is not UnsetType]
        return _union(
            each if each is int and float in members else _form_of(each, strict) for each in members
        )
    if arguments:
        forms = tuple(each if each is ... else _form_of(each, strict) for each in arguments)
        return hint if forms == arguments else origin[forms]
    if isinstance(hint, type) and issubclass(cast("type[object]", hint), msgspec.Struct):
        return form_of(hint, strict)
    if hint is int:
        return _WHOLE
    # msgspec cannot convert to a custom type by itself.
    is_custom = isinstance(msgspec.inspect.type_info(hint), msgspec.inspect.CustomType)
    return Any if is_custom and not hasattr(cast("object", hint), "from_wire") else hint


def _union(members: Iterable[Any]) -> Any:
    union: Any = Union
    return union[tuple(members)]
