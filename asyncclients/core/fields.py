"""The base of the structs that users fill in: a wrong field is named with the right ones.

The message of msgspec, `Unexpected keyword argument 'mail'`, has neither the struct nor its fields.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from asyncclients.arguments import did_you_mean


class _FieldsMeta(msgspec.StructMeta):
    # Hidden from type checkers, which would take its signature for that of each struct.
    if not TYPE_CHECKING:

        def __call__(self, *values: object, **fields: object) -> object:
            try:
                return super().__call__(*values, **fields)
            except TypeError:
                problem = _problem(self, values, fields)
                if not problem:
                    raise
            raise TypeError(problem)


def _problem(
    cls: type[msgspec.Struct], values: tuple[object, ...], fields: dict[str, object]
) -> str:
    """Return what is wrong with the arguments of *cls*; empty if their names are right."""
    known = cls.__struct_fields__
    for name in fields:
        if name not in known:
            hint = did_you_mean(name, known)
            return f"{cls.__name__} has no field {name!r}{hint}; it has: {', '.join(known)}"
    required = [field.name for field in msgspec.structs.fields(cls) if field.required]
    if values:
        name = next(iter(required or known))
        return f"{cls.__name__} takes its fields by name, as in {cls.__name__}({name}=...)"
    missing = [name for name in required if name not in fields]
    return f"{cls.__name__} needs {' and '.join(map(repr, missing))}" if missing else ""


class Fields(msgspec.Struct, metaclass=_FieldsMeta, frozen=True, kw_only=True):
    """Base of a struct whose fields a user gives by name.

    Raises:
        TypeError: a field is unknown or missing.
    """
