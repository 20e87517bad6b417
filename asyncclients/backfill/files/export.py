"""Convert JSON lines to CSV or Parquet.

The first pass over the file finds the columns, the second writes a bounded number of rows at a
time. The result gets its name when it is complete.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import msgspec

from asyncclients.backfill.files.parquet import pyarrow
from asyncclients.own_files import replacing

_ROW_GROUP = 20_000
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)\Z")

Item = dict[str, Any]


def write_csv(lines: Path, to: Path) -> None:
    """Write the objects of *lines* as CSV: one column per key, null empty, lists as JSON."""
    columns = list(_kinds(lines))
    with replacing(to) as file:
        text = TextIOWrapper(file, "utf-8", newline="")
        writer = csv.writer(text)
        writer.writerow(columns)
        for item in _items(lines):
            writer.writerow([_cell(item.get(column)) for column in columns])
        text.detach()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, (bool, list, dict)):
        return msgspec.json.encode(value).decode()
    return value


def write_parquet(lines: Path, to: Path) -> None:
    """Write the objects of *lines* as Parquet, in row groups.

    A column of times becomes a timestamp, a column of integers int64. Lists, objects and columns
    of several types become text in JSON.
    """
    arrow, parquet = pyarrow("pyarrow"), pyarrow()
    kinds = _kinds(lines)
    types = {
        "bool": arrow.bool_(),
        "int": arrow.int64(),
        "long": arrow.int64(),
        "float": arrow.float64(),
        "time": arrow.timestamp("us", tz="UTC"),
    }
    schema = arrow.schema([(name, types.get(kind, arrow.string())) for name, kind in kinds.items()])
    items = _items(lines)
    with replacing(to) as file, parquet.ParquetWriter(file, schema) as writer:
        while group := list(itertools.islice(items, _ROW_GROUP)):
            columns = {
                name: [_plain(item.get(name), kind) for item in group]
                for name, kind in kinds.items()
            }
            writer.write_table(arrow.Table.from_pydict(columns, schema=schema))


def _plain(value: Any, kind: str) -> Any:
    if value is None or kind in ("bool", "int", "long", "text"):
        return value
    if kind == "float":
        return float(value)
    if kind == "time":
        return datetime.fromisoformat(value)
    return msgspec.json.encode(value).decode()


def _items(lines: Path) -> Iterator[Item]:
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    with lines.open("rb") as file:
        for line in file:
            yield decode(line)


def _kinds(lines: Path) -> dict[str, str]:
    """Return the columns in order of appearance, with the kind of their values."""
    kinds: dict[str, str] = {}
    for item in _items(lines):
        for name, value in item.items():
            before = kinds.get(name, "")
            kinds[name] = before if value is None else _merged(before, _kind(value))
    return {name: kind or "text" for name, kind in kinds.items()}


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        if abs(value) <= 2**53:
            return "int"  # exact as a float too
        return "long" if -(2**63) <= value < 2**63 else "mixed"
    if isinstance(value, float):
        return "float"
    if isinstance(value, str):
        return "time" if _is_time(value) else "text"
    return "mixed"


def _is_time(text: str) -> bool:
    if not _TIME.match(text):
        return False
    try:
        datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return False
    return True


def _merged(before: str, kind: str) -> str:
    """Return the kind of a column that had the kind *before* and also has *kind*."""
    if not before or before == kind:
        return kind
    both = {before, kind}
    if both == {"int", "float"}:
        return "float"
    if both == {"int", "long"}:
        return "long"
    return "text" if both == {"time", "text"} else "mixed"
