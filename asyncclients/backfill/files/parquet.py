"""Read Parquet with pyarrow (`pip install asyncclients[parquet]`), imported at first use."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from io import BufferedReader
from pathlib import Path
from typing import Any

from asyncclients.backfill.files.text import ParsedRow, change_check
from asyncclients.errors import InputError

_BATCH_ROWS = 256


def pyarrow(module: str = "pyarrow.parquet") -> Any:
    """Return a *module* of pyarrow; raise `InputError` if it is not installed."""
    try:
        return import_module(module)
    except ImportError:
        raise InputError(
            "Parquet needs pyarrow, which is not installed",
            advice='Run `pip install "asyncclients[parquet]"`, or use .csv or .jsonl',
        ) from None


class ParquetReader:
    """Rows of a Parquet file, with the types of Parquet; null values are left out.

    Times are rounded down to microseconds, the resolution of Python. A value that Python cannot
    represent, such as the year 10000, is an error of its row.
    """

    coerce = False

    def __init__(self, path: Path, file: BufferedReader) -> None:
        module = pyarrow()
        self._path, self._raw = path, file
        self.check_unchanged = change_check(path, file)
        try:
            self._file: Any = module.ParquetFile(file, page_checksum_verification=True)
            names = self._file.schema_arrow.names
        except Exception as bad:  # noqa: BLE001 - pyarrow raises many types for a damaged file
            raise self._unusable(
                f"is not a Parquet file ({bad})", "Check that it is complete"
            ) from None
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise self._unusable(
                f"names the column {twice[0]!r} twice", "Write it again with other names"
            )
        self.columns: tuple[str, ...] | None = tuple(names)
        self._read = self.size = 0

    def _unusable(self, what: str, advice: str) -> InputError:
        return InputError(f"{self._path} {what}", file=str(self._path), advice=advice)

    def __iter__(self) -> Iterator[ParsedRow]:
        for batch in self._batches():
            size = batch.nbytes // max(1, batch.num_rows)
            for row, error in _rows_of(batch):
                self._read, self.size = self._read + 1, self.size + size
                data = {name: value for name, value in row.items() if value is not None}
                yield self._read, data or None, error

    def _batches(self) -> Iterator[Any]:
        try:
            for batch in self._file.iter_batches(batch_size=_BATCH_ROWS):
                yield _in_microseconds(batch)
        except Exception as bad:  # noqa: BLE001 - pyarrow raises many types for a damaged file
            raise self._unusable(
                f"is damaged after row {self._read} ({bad})", "Download or copy it again"
            ) from None

    def count(self, most: int) -> int:
        """Return the number of the next rows, at most *most*, from the file's metadata."""
        before, self._read = self._read, min(self._read + most, self._file.metadata.num_rows)
        return self._read - before

    def encoding_error(self) -> None:
        """Return None: the texts of a Parquet file are UTF-8."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._raw.close()


def _in_microseconds(batch: Any) -> Any:
    """Return *batch* with times in nanoseconds rounded down to microseconds."""
    arrow = pyarrow("pyarrow")
    columns: list[Any] = []
    for column in batch.columns:
        kind = column.type
        if getattr(kind, "unit", "") == "ns":
            if arrow.types.is_timestamp(kind):
                kind = arrow.timestamp("us", kind.tz)
            elif arrow.types.is_time64(kind):
                kind = arrow.time64("us")
            else:
                kind = arrow.duration("us")
            column = column.cast(kind, safe=False)
        columns.append(column)
    return arrow.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _rows_of(batch: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the rows of *batch*, each with an error if one of its values cannot be read."""
    try:
        rows = batch.to_pylist()
    except Exception:  # noqa: BLE001 - each value is read on its own
        for index in range(batch.num_rows):
            yield _row_at(batch, index)
        return
    for row in rows:
        yield row, ""


def _row_at(batch: Any, index: int) -> tuple[dict[str, Any], str]:
    row: dict[str, Any] = {}
    errors: list[str] = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = column[index].as_py()
        except Exception as bad:  # noqa: BLE001 - depends on the type of the column
            errors.append(f"{name} cannot be read: {bad}")
    return row, "; ".join(errors)
