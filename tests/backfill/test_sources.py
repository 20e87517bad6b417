"""Input files: what is good in them is read, what is bad is told with its line."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from asyncclients import InputError
from asyncclients.backfill import sources
from asyncclients.backfill.parquet import pyarrow
from asyncclients.backfill.sources import FileSource, Row, Rows, open_source


async def read(rows: Rows) -> list[Row]:
    source = await open_source(rows)
    found: list[Row] = []
    try:
        while chunk := await source.chunk():
            found += chunk
    finally:
        await source.aclose()
    return found


async def refusal(rows: Rows) -> InputError:
    with pytest.raises(InputError) as caught:
        await read(rows)
    return caught.value


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


async def test_csv_rows_leave_out_empty_cells(tmp_path: Path) -> None:
    """A CSV row is its filled cells by column; numbers and lines count from where they stand."""
    text = 'a,b\n1,\n"two\nlines",x\n\n3,y\n'
    rows = await read(write(tmp_path / "x.csv", text))
    assert rows == [
        Row(1, 2, {"a": "1"}),
        Row(2, 3, {"a": "two\nlines", "b": "x"}),
        Row(3, 6, {"a": "3", "b": "y"}),
    ]


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
async def test_gzip_is_read_whatever_its_name(tmp_path: Path, name: str) -> None:
    """A gzip file is unpacked; its bytes say what it is."""
    packed = write(tmp_path / name, gzip.compress(b"a\n1\n"))
    assert [row.data for row in await read(packed)] == [{"a": "1"}]


async def test_a_byte_order_mark_is_no_part_of_a_column(tmp_path: Path) -> None:
    """UTF-8 with a BOM, as Excel writes it, reads like UTF-8, CSV and JSON lines."""
    csv = write(tmp_path / "x.csv", b"\xef\xbb\xbfa\n1\n")
    lines = write(tmp_path / "x.jsonl", b'\xef\xbb\xbf{"a": 1}\n')
    assert [row.data for row in await read(csv)] == [{"a": "1"}]
    assert [row.data for row in await read(lines)] == [{"a": 1}]


async def test_bytes_that_are_not_utf8_are_one_rows_fault(tmp_path: Path) -> None:
    """A Latin-1 byte on one line is that row's complaint, with the byte; the next row is good."""
    rows = await read(write(tmp_path / "x.csv", b"a,b\nM\xfcnchen,1\nK,2\n"))
    assert rows[0].line == 2
    assert "0xFC" in rows[0].complaint
    assert rows[0].data == {"a": "M�nchen", "b": "1"}
    assert rows[1] == Row(2, 3, {"a": "K", "b": "2"})


async def test_an_empty_cell_reads_as_an_empty_text(tmp_path: Path) -> None:
    """A map may ask for any column of the header, filled or not, and for no other."""
    (row,) = await read(write(tmp_path / "x.csv", "a,b\n1,\n"))
    assert row.data == {"a": "1"}
    assert (row.data["b"], row.data.get("b")) == ("", None)
    with pytest.raises(KeyError, match="c"):
        _ = row.data["c"]


async def test_a_row_of_another_width_is_a_complaint(tmp_path: Path) -> None:
    """Half a line is not taken for a row with empty cells."""
    rows = await read(write(tmp_path / "x.csv", "a,b\n1\n1,2,3\n"))
    assert [row.complaint for row in rows] == [
        "has 1 cells where the header has 2",
        "has 3 cells where the header has 2",
    ]


async def test_a_cell_of_a_megabyte_is_read(tmp_path: Path) -> None:
    """The CSV module's limit of 128 KiB a cell is not ours."""
    rows = await read(write(tmp_path / "x.csv", "a\n" + "x" * 2**20 + "\n"))
    assert len(rows[0].data["a"]) == 2**20


async def test_an_open_quote_is_told_with_its_line(tmp_path: Path) -> None:
    """A quote that is never closed does not eat the file silently."""
    error = await refusal(write(tmp_path / "x.csv", 'a\n1\n"' + "x\n" * 9_000_000))
    assert error.line is not None
    assert "quote" in str(error)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.csv", b"", "is empty"),
        ("x.csv", b"\n", "is empty"),
        ("x.csv", b"a,b,a\n1,2,3\n", "names the column 'a' twice"),
        ("x.csv", b"\xfcber\n1\n", "0xFC"),
        ("x.csv", "a\n1\n".encode("utf-16"), "UTF-16"),
        ("x.csv.gz", gzip.compress(b"a\n" + b"1\n" * 99_999)[:-50], "gzip"),
        ("x.xlsx", b"PK", "cannot tell"),
        ("x.parquet", b"PAR1", "is not a Parquet file"),
    ],
)
async def test_a_useless_file_is_an_input_error(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    """What cannot be read as a whole names the file, the fault and the remedy."""
    path = write(tmp_path / name, content)
    error = await refusal(path)
    assert words in str(error)
    assert error.file == str(path)
    assert error.advice


async def test_no_file_and_a_directory(tmp_path: Path) -> None:
    """A path that is no file says so."""
    assert "does not exist" in str(await refusal(tmp_path / "no.csv"))
    assert "is a directory" in str(await refusal(tmp_path))


async def test_json_lines(tmp_path: Path) -> None:
    """Objects are rows, blank lines nothing, anything else a complaint that quotes the line."""
    path = write(tmp_path / "x.jsonl", b'{"a": 1}\n\n[1]\n{"a": \n{"a": 2}')
    rows = await read(path)
    assert [(row.line, row.data) for row in rows if not row.complaint] == [
        (1, {"a": 1}),
        (5, {"a": 2}),
    ]
    assert [(row.line, row.data) for row in rows if row.complaint] == [(3, "[1]"), (4, '{"a":')]


async def test_failed_rows_are_input(tmp_path: Path) -> None:
    """A file of failed rows gives the rows inside, and those never readable stay so."""
    path = write(
        tmp_path / "s.db.failed.jsonl",
        '{"line":3,"number":2,"row":{"a":"1"},"reason":"no"}\n'
        '{"line":4,"number":3,"row":"[1]","reason":"is not a JSON object"}\n',
    )
    rows = await read(path)
    assert rows[0] == Row(1, 1, {"a": "1"})
    assert rows[1].complaint


async def test_a_cancelled_opening_closes_what_it_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that opens a file cannot be cancelled: its file is closed when it is there."""
    opened: list[FileSource] = []

    class Noted(FileSource):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            opened.append(self)

    monkeypatch.setattr(sources, "FileSource", Noted)
    opening = asyncio.create_task(open_source(write(tmp_path / "rows.jsonl", '{"a": 1}\n')))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    with pytest.raises(ValueError, match="closed file"):
        opened[0].fraction()


async def test_a_cancelled_close_closes(tmp_path: Path) -> None:
    """Also where no thread was free for it yet."""
    source = await open_source(write(tmp_path / "rows.jsonl", '{"a": 1}\n'))
    busy = threading.Event()
    with ThreadPoolExecutor(1) as only:
        asyncio.get_running_loop().set_default_executor(only)
        working = asyncio.create_task(asyncio.to_thread(busy.wait))
        closing = asyncio.create_task(source.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.sleep(0)
        busy.set()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await working
    with pytest.raises(ValueError, match="closed file"):
        source.fraction()


async def test_parquet(tmp_path: Path) -> None:
    """Parquet rows keep their types and leave out nulls."""
    path = tmp_path / "x.parquet"
    arrow, parquet = pyarrow("pyarrow"), pyarrow()
    parquet.write_table(arrow.table({"a": [1, 2], "b": ["x", None]}), path)
    assert await read(path) == [Row(1, 1, {"a": 1, "b": "x"}), Row(2, 2, {"a": 2})]


async def test_iterables() -> None:
    """Any iterable and async iterable is a source."""

    async def rows() -> AsyncIterator[dict[str, int]]:
        for number in range(3):
            yield {"n": number}

    expected = [Row(number + 1, number + 1, {"n": number}) for number in range(3)]
    assert await read({"n": number} for number in range(3)) == expected
    assert await read(rows()) == expected
