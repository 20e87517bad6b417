"""Parquet, through pyarrow (`pip install asyncclients[parquet]`), loaded when first needed."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from asyncclients.backfill.lines import Line
from asyncclients.errors import InputError

_BATCH = 256


def pyarrow(part: str = "pyarrow.parquet") -> Any:
    """A module of pyarrow.

    Raises:
        InputError: it is not installed.
    """
    try:
        return import_module(part)
    except ImportError:
        raise InputError(
            "Parquet needs pyarrow, which is not installed",
            advice='Run `pip install "asyncclients[parquet]"`, or use .csv or .jsonl',
        ) from None


class ParquetReader:
    """Rows of a Parquet file, values as Parquet has them; null ones are left out."""

    lax = False

    def __init__(self, path: Path) -> None:
        module = pyarrow()
        try:
            self._file: Any = module.ParquetFile(path)
        except (ValueError, OSError) as bad:  # pyarrow's own errors are ValueErrors
            raise InputError(
                f"{path} is not a Parquet file ({bad})",
                file=str(path),
                advice="Check that it was written to its end",
            ) from None
        self.columns: tuple[str, ...] | None = tuple(self._file.schema_arrow.names)
        self._rows: int = self._file.metadata.num_rows
        self._read = 0

    def __iter__(self) -> Iterator[Line]:
        for batch in self._file.iter_batches(batch_size=_BATCH):
            size = batch.nbytes // max(1, batch.num_rows)
            for row in batch.to_pylist():
                self._read += 1
                data = {name: value for name, value in row.items() if value is not None}
                yield Line(self._read, data, "", size)

    def fraction(self) -> float | None:
        """The share of the rows that was read."""
        return self._read / self._rows if self._rows else 1.0

    def close(self) -> None:
        """Close the file."""
        self._file.close()
