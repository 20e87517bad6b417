"""Store what DBOS keeps as JSON, so that reading the job database runs no code.

DBOS pickles arguments, results and errors by default, and unpickles every row that
is marked as pickled, whatever serializer is configured. Write access to the
database would then be code execution in each worker. Here values are JSON, and
`no_pickles` makes DBOS reject pickled rows.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import msgspec
from dbos import Serializer

from asyncclients import errors
from asyncclients.backfill.report import RequestCounts
from asyncclients.backfill.steps import PullCursor
from asyncclients.errors import AsyncClientsError, BackfillStoppedError, StateError

_STRUCTS: dict[str, type[Any]] = {cls.__name__: cls for cls in (PullCursor, RequestCounts)}


class JSONSerializer(Serializer):
    """Arguments, results and errors of the workflows as JSON.

    Errors of this library keep their class and fields; any other becomes a
    `BackfillStoppedError` with the name and text of the original.
    """

    def name(self) -> str:
        """Return the name under which DBOS marks the rows."""
        return "asyncclients_json"

    def serialize(self, data: Any) -> str:
        """Return *data* as JSON, in ASCII: lone surrogates and NUL survive any database."""
        name = type(data).__name__
        if isinstance(data, BaseException):
            return json.dumps({"error": _error_fields(data)}, default=str)
        if name in _STRUCTS:
            return json.dumps({"struct": name, "value": msgspec.to_builtins(data)})
        return json.dumps({"value": data})

    def deserialize(self, serialized_data: str) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the value that `serialize` wrote."""
        stored = json.loads(serialized_data)
        if "error" in stored:
            return _error_from(**stored["error"])
        if "struct" in stored:
            return msgspec.convert(stored["value"], _STRUCTS[stored["struct"]])
        return stored["value"]


def _error_fields(error: BaseException) -> dict[str, Any]:
    if not isinstance(error, AsyncClientsError):
        return {"name": "BackfillStoppedError", "message": f"{type(error).__name__}: {error}"}
    known = vars(errors).values()
    fields = dict(error._facts())  # pyright: ignore[reportPrivateUsage]
    fields.pop("report", None)  # the reader of the error creates a new one
    return {
        "name": next(base.__name__ for base in type(error).__mro__ if base in known),
        "message": error.message,
        "fields": fields,
    }


def _error_from(name: str, message: str, fields: dict[str, Any] | None = None) -> Exception:
    cls = vars(errors).get(name)
    if not (isinstance(cls, type) and issubclass(cls, AsyncClientsError)):
        return BackfillStoppedError(f"{name}: {message}")
    return cls(message, **(fields or {}))


@contextmanager
def no_pickles() -> Generator[None]:
    """Make DBOS reject pickled rows, and write no pickle, while the block is open."""
    try:
        from dbos._serialization import DBOSDefaultSerializer
    except ImportError:  # another DBOS
        yield
        return
    pickling: Any = DBOSDefaultSerializer
    pickling.serialize, pickling.deserialize = JSONSerializer().serialize, _reject
    try:
        yield
    finally:
        del pickling.serialize, pickling.deserialize


def _reject(_: str) -> Any:
    raise StateError(
        "the job database holds a pickled value, which is not loaded",
        advice="It was written by an older version or by another program: use a new database",
    )
