"""Generated files: everything written is read back, and damage never loses a row silently."""

from __future__ import annotations

import asyncio
import csv
import io
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from asyncclients import InputError
from asyncclients.backfill.files.parquet import pyarrow
from asyncclients.backfill.files.source import Row, open_source

SETTINGS = settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
NAMES = ["alpha", "beta", "gamma"]
TEXT = st.text(
    st.characters(codec="utf-8", exclude_characters="\0") | st.sampled_from(" ,;\"\n\r'\ufeff"),
    max_size=12,
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=20)
)
NESTED = st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=9), SCALARS, max_size=3)
VALUES = SCALARS | NESTED | st.lists(NESTED, max_size=2)


def rows_of(content: bytes, name: str) -> list[Row] | InputError:
    """The rows of a file with *content*, or the error with the reason why it cannot be used."""

    async def read(path: Path) -> list[Row]:
        rows: list[Row] = []
        source = await open_source(path)
        try:
            while chunk := await source.chunk():
                rows += chunk
        finally:
            await source.aclose()
        return rows

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / name
        path.write_bytes(content)
        try:
            return asyncio.run(read(path))
        except InputError as error:
            return error


@SETTINGS
@given(
    st.lists(st.lists(TEXT, min_size=3, max_size=3), max_size=5),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(["utf-8", "utf-8-sig"]),
)
@example([["a", "\r", '"'], ["", "\n,", " "]], "\r\n", csv.QUOTE_MINIMAL, "utf-8")
def test_csv_reads_what_the_csv_module_writes(
    records: list[list[str]], end: str, quoting: Any, encoding: str
) -> None:
    """Any table written by `csv` is read with the same values."""
    if end == "\n" and quoting == csv.QUOTE_MINIMAL:  # `csv` does not quote a lone CR then
        records = [[cell.replace("\r", "") for cell in record] for record in records]
    file = io.StringIO()
    csv.writer(file, lineterminator=end, quoting=quoting).writerows([NAMES, *records])
    rows = rows_of(file.getvalue().encode(encoding), "x.csv")
    assert not isinstance(rows, InputError), rows
    expected = [
        {name: cell for name, cell in zip(NAMES, record, strict=True) if cell}
        if "".join(record).strip()
        else None
        for record in records
    ]
    assert [row.data for row in rows] == expected
    assert not any(row.error for row in rows)


@SETTINGS
@given(st.lists(st.dictionaries(st.text(), VALUES, max_size=4), max_size=5))
def test_json_reads_what_is_written(records: list[dict[str, Any]]) -> None:
    """Objects written as JSON lines are read unchanged."""
    rows = rows_of(b"".join(msgspec.json.encode(record) + b"\n" for record in records), "x.jsonl")
    assert not isinstance(rows, InputError), rows
    assert [row.data for row in rows] == [record or None for record in records]
    assert not any(row.error for row in rows)


@SETTINGS
@given(
    st.lists(
        st.tuples(
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.none() | st.text(st.characters(codec="utf-8")),
            st.none() | st.datetimes(),
            st.none() | st.lists(st.none() | st.floats(allow_nan=False), max_size=3),
        ),
        max_size=5,
    )
)
def test_parquet_reads_what_pyarrow_writes(records: list[tuple[Any, ...]]) -> None:
    """Any table written by pyarrow is read with the same values, nulls left out."""
    arrow, parquet = pyarrow("pyarrow"), pyarrow()
    kinds = [
        arrow.int64(),
        arrow.string(),
        arrow.timestamp("us"),
        arrow.list_(arrow.float64()),
    ]
    columns = {
        f"c{place}": arrow.array([record[place] for record in records], kind)
        for place, kind in enumerate(kinds)
    }
    file = io.BytesIO()
    parquet.write_table(arrow.table(columns), file)
    rows = rows_of(file.getvalue(), "x.parquet")
    assert not isinstance(rows, InputError), rows
    expected = [
        {f"c{place}": value for place, value in enumerate(record) if value is not None} or None
        for record in records
    ]
    assert [row.data for row in rows] == expected


# --- Damage ---------------------------------------------------------------------------

CELLS = st.sampled_from(["word", "two words", "a, b", 'say "hi"', "", "1", "x\ny"])


@SETTINGS
@given(
    st.lists(st.lists(CELLS, min_size=2, max_size=2), min_size=8, max_size=8),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(['"', ",", "\n", "\r", "\0", "\xff", ""]),
    st.integers(0, 10_000),
    st.booleans(),
)
def test_csv_damage_is_an_error(
    records: list[list[str]], quoting: Any, put: str, place: int, cut: bool
) -> None:
    """An inserted byte or a truncation is an error, or affects only its own row."""
    numbered = [[f"<{n}>", *record, f"<{n}>"] for n, record in enumerate(records)]
    file = io.StringIO()
    csv.writer(file, lineterminator="\n", quoting=quoting).writerows([["k", *NAMES], *numbered])
    whole = file.getvalue().encode("latin-1")
    header = whole.index(b"\n") + 1
    at = header + place % (len(whole) - header + 1)
    damaged = whole[:at] + put.encode("latin-1") + (b"" if cut else whole[at:])
    rows = rows_of(damaged, "x.csv")
    if isinstance(rows, InputError):
        assert rows.file
        return
    good = [row.data for row in rows if row.data is not None and not row.error]
    told = sum(bool(row.error) for row in rows)
    columns = ["k", *NAMES]
    expected = [
        {name: cell for name, cell in zip(columns, record, strict=True) if cell}
        for record in numbered
    ]
    missing = [row for row in expected if row not in good]
    changed = [row for row in good if row not in expected]
    if not cut:
        assert len(missing) <= 1 + told, (damaged, missing, rows)
        assert len(good) + told >= len(numbered), (damaged, rows)
    for row in changed:
        # At most the damaged place itself: the row is still one row.
        assert all("<" not in row.get(name, "") for name in NAMES[:2]), (damaged, row)


@given(st.integers(0, 17), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
def test_csv_quote_in_the_header_is_an_error(place: int, quoting: Any) -> None:
    """A stray quote in the first line never renames a column."""
    file = io.StringIO()
    csv.writer(file, quoting=quoting).writerows([NAMES, *[["1", "2", "3"]] * 5])
    text = file.getvalue()
    at = place % text.index("\r")
    rows = rows_of(f'{text[:at]}"{text[at:]}'.encode(), "x.csv")
    assert isinstance(rows, InputError), rows


@SETTINGS
@given(
    st.lists(
        st.dictionaries(st.sampled_from("abc"), VALUES, min_size=1, max_size=3),
        min_size=6,
        max_size=9,
    ),
    st.sampled_from([b'"', b"{", b"\n", b"\r", b"\0", b"\xff", b""]),
    st.integers(0, 10_000),
    st.booleans(),
)
def test_json_damage_fails_its_line(
    records: list[dict[str, Any]], put: bytes, place: int, cut: bool
) -> None:
    """Damage to one line fails that line only."""
    whole = b"".join(msgspec.json.encode(record) + b"\n" for record in records)
    at = place % (len(whole) + 1)
    rows = rows_of(whole[:at] + put + (b"" if cut else whole[at:]), "x.jsonl")
    if isinstance(rows, InputError):
        assert rows.file
        return
    lines = whole[:at].count(b"\n")
    good = [row.data for row in rows if not row.error]
    assert good[:lines] == records[:lines]
    if not cut:
        assert good[len(good) - (len(records) - lines - 1) :] == records[lines + 1 :]
    assert len(rows) >= (lines if cut else len(records))
