"""Rows of CSV, JSON lines and Parquet files, and the errors of unusable ones."""

from __future__ import annotations

import asyncio
import csv
import gzip
import subprocess
import threading
import tracemalloc
from collections.abc import AsyncIterator
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from io import BufferedReader
from pathlib import Path
from typing import Any

import pytest

from asyncclients import InputError
from asyncclients.backfill.files.jsonl import JsonReader
from asyncclients.backfill.files.parquet import pyarrow
from asyncclients.backfill.files.source import Row, Rows, open_source
from tests.support.resources import cancel_without_a_free_thread


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
    """A CSV row has only its filled cells; numbers and lines start at 1 and 2."""
    text = 'a,b\n1,\n"two\nlines",x\n\n3,y\n'
    rows = await read(write(tmp_path / "x.csv", text))
    assert rows == [
        Row(1, 2, {"a": "1"}),
        Row(2, 3, {"a": "two\nlines", "b": "x"}),
        Row(3, 6, {"a": "3", "b": "y"}),
    ]


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
async def test_source_reads_gzip_with_any_name(tmp_path: Path, name: str) -> None:
    """A gzip file is recognised by its first bytes, not by its name."""
    packed = write(tmp_path / name, gzip.compress(b"a\n1\n"))
    assert [row.data for row in await read(packed)] == [{"a": "1"}]


async def test_source_ignores_byte_order_mark(tmp_path: Path) -> None:
    """UTF-8 with a BOM, as Excel writes it, is read like UTF-8, in CSV and JSON lines."""
    csv = write(tmp_path / "x.csv", b"\xef\xbb\xbfa\n1\n")
    lines = write(tmp_path / "x.jsonl", b'\xef\xbb\xbf{"a": 1}\n')
    assert [row.data for row in await read(csv)] == [{"a": "1"}]
    assert [row.data for row in await read(lines)] == [{"a": 1}]


async def test_csv_bytes_that_are_not_utf8_fail_their_row(tmp_path: Path) -> None:
    """A Latin-1 byte fails its row and is named in the error; the next row is read."""
    rows = await read(write(tmp_path / "x.csv", b"a,b\nM\xfcnchen,1\nK,2\n"))
    assert rows[0].line == 2
    assert "0xFC" in rows[0].error
    assert "iconv -f WINDOWS-1252 -t UTF-8" in rows[0].error
    assert rows[0].data == {"a": "M�nchen", "b": "1"}
    assert rows[1] == Row(2, 3, {"a": "K", "b": "2"})


_JSON = '{{"a": "{}"}}'


@pytest.mark.parametrize("row", ["{}", _JSON])
async def test_source_in_another_encoding_is_found_when_it_is_counted(
    tmp_path: Path, row: str
) -> None:
    """The error names the first line that is not UTF-8, and a command that converts the file."""
    path = tmp_path / ("x.jsonl" if row == _JSON else "x.csv")
    head = [] if row == _JSON else ["a"]
    lines = [*head, *(row.format(name) for name in ["Kiel", "München", "Köln"])]
    path.write_bytes("\n".join(lines).encode("cp1252"))
    source = await open_source(path)
    with pytest.raises(InputError, match="0xFC") as raised:
        await source.count()
    await source.aclose()
    assert raised.value.line == len(head) + 2
    assert f"iconv -f WINDOWS-1252 -t UTF-8 {path}" in str(raised.value.advice)


async def test_advice_has_no_command_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without iconv, as on Windows, the advice only names the encoding."""
    monkeypatch.setenv("PATH", "")
    path = tmp_path / "no-iconv.csv"
    path.write_bytes(b"\xfcber\n1\n")
    with pytest.raises(InputError) as raised:
        await open_source(path)
    assert raised.value.advice == "Save the file as UTF-8; its text is probably WINDOWS-1252"


@pytest.mark.parametrize("row", ["{}", _JSON])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
async def test_source_with_a_damaged_row_is_counted(tmp_path: Path, row: str, bom: bytes) -> None:
    """A file is UTF-8 if a byte order mark or another row says so: its damaged row can fail alone."""
    path = tmp_path / ("x.jsonl" if row == _JSON else "x.csv")
    good = "Kiel" if bom else "Köln"
    lines = [row.format(good).encode(), row.format("München").encode("cp1252")]
    path.write_bytes(bom + b"\n".join(lines if row == _JSON else [b"a", *lines]))
    source = await open_source(path)
    assert await source.count() == 2
    rows = await source.chunk()
    source.check_encoding()
    await source.aclose()
    assert [bool(row.error) for row in rows] == [False, True]


async def test_csv_empty_cell_reads_as_empty_text(tmp_path: Path) -> None:
    """A map may read any column of the header, filled or not, and no other."""
    (row,) = await read(write(tmp_path / "x.csv", "a,b\n1,\n"))
    assert row.data == {"a": "1"}
    assert (row.data["b"], row.data.get("b")) == ("", None)
    with pytest.raises(KeyError, match="c"):
        _ = row.data["c"]


async def test_csv_row_of_another_width_fails(tmp_path: Path) -> None:
    """Half a row is not taken for a row with empty cells."""
    rows = await read(write(tmp_path / "x.csv", "a,b\n1\n1,2,3\n"))
    assert [row.error for row in rows] == [
        "has 1 cells where the header has 2",
        "has 3 cells where the header has 2",
    ]


async def test_csv_reads_cell_of_a_megabyte(tmp_path: Path) -> None:
    """The limit of 128 KiB per cell of Python's csv module does not apply."""
    rows = await read(write(tmp_path / "x.csv", "a\n" + "x" * 2**20 + "\n"))
    assert len(rows[0].data["a"]) == 2**20


async def test_csv_unclosed_quote_is_an_error_with_its_line(tmp_path: Path) -> None:
    """A quote that is never closed is an error with its line number."""
    error = await refusal(write(tmp_path / "x.csv", 'a\n1\n"' + "x\n" * 9_000_000))
    assert error.line is not None
    assert "quote" in str(error)


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("a file.csv", "utf-16"),
        ("x.csv", "utf-16-le"),
        ("x.csv", "utf-16-be"),
        ("x.csv.gz", "utf-16-le"),
        ("x.csv", "cp1252"),
    ],
)
async def test_advice_about_an_encoding_is_a_command_that_works(
    tmp_path: Path, name: str, encoding: str
) -> None:
    """The command in the error writes a file that is read, whatever the encoding was."""
    content = "größe\n1\n".encode(encoding)
    path = write(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content)
    command = ((await refusal(path)).advice or "").partition("convert it: ")[2]
    subprocess.run(command, shell=True, check=True)  # noqa: ASYNC221 - as a user would
    (converted,) = tmp_path.glob("utf8-*.csv")
    (row,) = await read(converted)
    assert row.data == {"größe": "1"}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.csv", b"", "is empty"),
        ("x.csv", b"\n", "is empty"),
        ("x.csv", b"a,b,a\n1,2,3\n", "names the column 'a' twice"),
        ("x.csv", b"\xfcber\n1\n", "iconv -f WINDOWS-1252 -t UTF-8"),
        ("x.csv", b"\xef\xbb\xbf", "is empty"),
        ("x.csv", b",,\n,,\n", "is empty"),
        ("x.csv", b"   \n\n", "is empty"),
        ("x.csv", "a\n1\n".encode("utf-16"), "UTF-16"),
        ("x.csv", "a,b\n1,2\n".encode("utf-16-le"), "UTF-16"),
        ("x.csv", "a,b\n1,2\n".encode("utf-16-be"), "UTF-16"),
        ("x.jsonl", '{"a": 1}\n'.encode("utf-16"), "UTF-16"),
        ("x.jsonl", '{"a": 1}\n'.encode("utf-16-le"), "UTF-16"),
        ("x.csv", "a,b\n1,2\n".encode("utf-32"), "UTF-16"),
        ("x.csv.gz", gzip.compress("a\n1\n".encode("utf-16-le"), mtime=0), "UTF-16"),
        ("x.csv", b"a;b\n1;2\n", "semicolons"),
        ("x.csv", b"sep=;\na;b\n1;2\n", "semicolons"),
        ("x.csv", b'"a";"b"\n"1";"2"\n', "semicolons"),
        ("x.csv", b"a\tb\n1\t2\n", "tabs"),
        ("x.csv", b'"a"\t"b"\n1\t2\n', "tabs"),
        ("x.csv", b"a|b\n1|2\n", "pipes"),
        ("x.csv", b"PK\x03\x04rest", "Excel"),
        ("x.csv", b"\xd0\xcf\x11\xe0rest", "Excel"),
        ("x.jsonl", b"PAR1rest", "Parquet"),
        ("x.csv", b"BZh91AY&SYrest", "bzip2"),
        ("x.csv", b"\xfd7zXZ\x00rest", "xz"),
        ("x.csv", b"\x28\xb5\x2f\xfdrest", "zstd"),
        ("x.csv.gz", gzip.compress(gzip.compress(b"a\n1\n", mtime=0), mtime=0), "compressed twice"),
        ("x.csv", b"%PDF-1.7\n", "PDF"),
        ("x.csv", b"SQLite format 3\x00rest", "SQLite"),
        ("x.csv", b"<!DOCTYPE html>\n<html></html>\n", "web page"),
        ("x.jsonl", b"<html></html>\n", "web page"),
        ("x.csv", b'{"a": 1}\n{"a": 2}\n', "is JSON"),
        ("x.csv", b'[{"a": 1}]\n', "is JSON"),
        ("x.jsonl", b'[{"a": 1}]\n', "an array"),
        ("x.jsonl", b'\xef\xbb\xbf\n[\n  {"a": 1}\n]\n', "an array"),
        ("x.jsonl", b'{\n  "a": 1\n}\n', "an object over several lines"),
        ("x.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 9999, mtime=0)[:-9], "gzip"),
        ("x.csv.gz", b"\x1f\x8b\x08\x00", "gzip"),
        ("x.csv.gz", gzip.compress(b"a\n" + b"1\n" * 99_999, mtime=0)[:-50], "gzip"),
        ("x.xlsx", b"PK", "cannot tell"),
        ("x.parquet", b"PAR1", "is not a Parquet file"),
    ],
)
async def test_source_rejects_unusable_file(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    """The error for an unusable file names the file, the problem and the remedy."""
    path = write(tmp_path / name, content)
    error = await refusal(path)
    assert words in str(error)
    assert error.file == str(path)
    assert error.advice


# --- Quotes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param('a,b\n1,x\n2,"y\n3,z\n', 3, id="never-closed"),
        pytest.param('a,b\n1,x\n2,"y', 3, id="cut-off-in-a-cell"),
        pytest.param('a,b\n1,"x\n2,y\n3,"z\n', 2, id="two-cells-begin-with-a-quote"),
        pytest.param('a,b\n1,"x\n2,"y"\n', 2, id="closed-where-the-next-cell-opens"),
        pytest.param('a,b\n1,"say "hi"\n2, you"\n', 2, id="quotes-inside-over-two-lines"),
        pytest.param('a,b\n1,"x\n' + "2,y\n" * 9 + '3,7"\n', 2, id="closed-at-the-end-of-a-row"),
        pytest.param('a,b,c,d\n"1,2,3,4\n5,6,7,8\n9,10,11,12"\n', 2, id="whole-rows"),
        pytest.param('a,b\nn1,x\nn2,"y\nn3,7"\nn4,z\n', 3, id="two-rows"),
        pytest.param('a,b\n1001,"x\n1002,y"\n1003,z\n', 2, id="two-rows-with-numbers"),
        pytest.param('a,b\na@x.org,"y\nb@x.org,7"\n', 2, id="two-addresses"),
        pytest.param('a,b\n"n1,x\nn2",y\n', 2, id="two-rows-from-their-start"),
        pytest.param('"a,b\n1,2\n', 1, id="header"),
        pytest.param('a\nw"\n"x\n' + "y\n" * 200 + 'z"\n', 3, id="one-column"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
async def test_csv_quotes_that_hide_rows_are_an_error(
    tmp_path: Path, text: str, line: int, end: str
) -> None:
    """A stray or unclosed quote raises an error with its line; it never swallows rows."""
    error = await refusal(write(tmp_path / "x.csv", text.replace("\n", end)))
    assert error.line == line
    assert "quote" in str(error)


async def test_csv_quote_inside_a_cell_fails_its_row(tmp_path: Path) -> None:
    """A misplaced quote in a line with an even number of quotes fails only that row."""
    rows = await read(write(tmp_path / "x.csv", 'a,b\n1,"say "hi" now"\n2,x\n'))
    assert [(row.line, row.data) for row in rows if not row.error] == [(3, {"a": "2", "b": "x"})]
    assert [(row.line, row.data) for row in rows if row.error] == [(2, '1,"say "hi" now"')]


@pytest.mark.parametrize(
    "cell",
    [
        "two\nlines",
        "Dear Ann,\nthanks, and see you\n\nBob",
        "a\r\nb",
        'he said "yes",\nshe said "no"\n',
        "\n\n\n",
        "1, Main Street\nSpringfield",
        "first, second",
        "first\nsecond, third",
        "Main Street 1, Springfield\nMain Street 2, Springfield",
        "word " * 50 + "\n" + "line\n" * 300,
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
async def test_csv_cells_of_several_lines_are_read(tmp_path: Path, cell: str, end: str) -> None:
    """A properly quoted text of several lines is one cell."""
    path = tmp_path / "x.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator=end).writerows([["a", "b"], ["1", cell], ["2", "x"]])
    rows = await read(path)
    assert [row.data for row in rows] == [{"a": "1", "b": cell}, {"a": "2", "b": "x"}]


async def test_csv_line_ends_separate_rows_from_lines_of_a_cell(
    tmp_path: Path,
) -> None:
    """In a file from Excel rows end in CRLF and lines of a cell in LF, so a table in a cell is one cell."""
    cell = "\n".join(f"{number},x,y" for number in range(50))
    path = write(tmp_path / "x.csv", f'a,b,c\r\n1,2,"{cell}"\r\n')
    assert [row.data for row in await read(path)] == [{"a": "1", "b": "2", "c": cell}]
    await refusal(write(tmp_path / "y.csv", f'a,b,c\n1,2,"{cell}"\n'))


async def test_csv_quotes_in_cells_without_quotes_are_text(tmp_path: Path) -> None:
    """A quote in a cell that does not begin with one is plain text."""
    rows = await read(write(tmp_path / "x.csv", 'a,b\n1,5" pipe\n2,x"\n'))
    assert [row.data for row in rows] == [{"a": "1", "b": '5" pipe'}, {"a": "2", "b": 'x"'}]


# --- Untidy rows ----------------------------------------------------------------------


async def test_csv_rows_without_values_have_no_data(tmp_path: Path) -> None:
    """A row of commas or spaces is a row without data; an empty line is no row."""
    rows = await read(write(tmp_path / "x.csv", "a,b\n1,2\n,\n\n , \n,,,\n  \n\t\n3,\n"))
    assert [(row.number, row.line, row.data) for row in rows] == [
        (1, 2, {"a": "1", "b": "2"}),
        *((number, line, None) for number, line in ((2, 3), (3, 5), (4, 6), (5, 7), (6, 8))),
        (7, 9, {"a": "3"}),
    ]
    assert not any(row.error for row in rows)


async def test_csv_cells_beyond_the_last_column(tmp_path: Path) -> None:
    """Empty cells beyond the last column are ignored; one with a value fails the row."""
    rows = await read(write(tmp_path / "x.csv", "a,b\n1,2,\n3,4,, ,\n5,6,,7\n"))
    assert [row.data for row in rows[:2]] == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
    assert [row.error for row in rows] == ["", "", "has 4 cells where the header has 2"]


async def test_csv_columns_without_a_name_are_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The values of a column without a name are ignored, with one warning."""
    rows = await read(write(tmp_path / "x.csv", ",a,\n0,x,\n1,y,\n"))
    assert [row.data for row in rows] == [{"a": "x"}, {"a": "y"}]
    (record,) = caplog.records
    assert "line 2: column 1 has no name" in record.getMessage()


async def test_csv_repeated_header_fails_its_row(tmp_path: Path) -> None:
    """If two files were joined, the second header is an error, with or without a BOM."""
    text = "a, b\n1,2\n\ufeffa, b\n3,4\na, b\na,c\n"
    rows = await read(write(tmp_path / "x.csv", text))
    assert ["repeats the header" in row.error for row in rows] == [
        False,
        True,
        False,
        True,
        False,
    ]


async def test_csv_nul_bytes_fail_their_row(tmp_path: Path) -> None:
    """A row with NUL bytes, as a machine crash leaves them, is not sent."""
    rows = await read(write(tmp_path / "x.csv", b"a\n1\n\0\0\0\n2\n"))
    assert ["NUL" in row.error for row in rows] == [False, True, False]


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
async def test_source_rejects_line_without_end(tmp_path: Path, name: str) -> None:
    """A file without line ends is an error with its line number, and is not read into memory."""
    path = tmp_path / name
    with path.open("wb") as file:
        file.write(b'{"a": 1}\n' if name == "x.jsonl" else b"a\n")
        file.seek(200 * 2**20)  # a hole: NUL bytes that take no room
        file.write(b"\n")
    tracemalloc.start()
    try:
        error = await refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 150 * 2**20
    finally:
        tracemalloc.stop()
    assert error.line == 2
    assert "longer than 16 MB" in str(error)


async def test_csv_ignores_separator_hint_of_excel(tmp_path: Path) -> None:
    """The line `sep=,` for Excel is not taken for the header."""
    rows = await read(write(tmp_path / "x.csv", "sep=,\na,b\n1,2\n"))
    assert [row.data for row in rows] == [{"a": "1", "b": "2"}]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
async def test_source_reads_all_line_ends(tmp_path: Path, end: bytes) -> None:
    """Unix, Windows and old Mac line ends are read, in CSV and JSON lines."""
    table = write(tmp_path / "x.csv", end.join([b"a", b"1", b"2"]))
    lines = write(tmp_path / "x.jsonl", end.join([b'{"a": 1}', b"", b'{"a": 2}', b""]))
    assert [(row.line, row.data) for row in await read(table)] == [(2, {"a": "1"}), (3, {"a": "2"})]
    assert [(row.line, row.data) for row in await read(lines)] == [(1, {"a": 1}), (3, {"a": 2})]


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
async def test_source_rejects_file_that_changes(tmp_path: Path, name: str) -> None:
    """Rows read while another program writes the file are not returned."""
    path = write(
        tmp_path / name, '{"a": 1}\n' * 5000 if name == "x.jsonl" else "a\n" + "1\n" * 5000
    )
    source = await open_source(path)
    try:
        assert await source.chunk()
        with path.open("a") as file:
            file.write("half a l")
        with pytest.raises(InputError, match="was changed while it was read"):
            await source.chunk()
    finally:
        await source.aclose()


async def test_source_without_rows_is_empty(tmp_path: Path) -> None:
    """A file with only a header has no rows, nor has an empty file of JSON lines."""
    assert await read(write(tmp_path / "x.csv", "a,b")) == []
    assert await read(write(tmp_path / "x.jsonl", "")) == []


# --- JSON lines -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"a": 1, "a": 2}', "has the name 'a' twice"),
        ('{"b": {"a": 1, "a": 1}}', "has the name 'a' twice"),
        ('{"b": [{"a": "x:y", "a" : 1}]}', "has the name 'a' twice"),
        ('{"a": NaN}', "is not a JSON object"),
        ('{"a": Infinity}', "is not a JSON object"),
        ('{"a": 1e999}', "is not a JSON object"),
        ('{"a": 1} {"a": 2}', "is not a JSON object"),
        ('{"a": "\\ud800"}', "is not a JSON object"),
        ("7", "is not a JSON object"),
        ("null", "is not a JSON object"),
        ('"text"', "is not a JSON object"),
        ("[" * 5000, "is not a JSON object"),
        ('{"a": "x', "is not a JSON object"),
    ],
)
async def test_json_line_that_is_not_one_object_fails(
    tmp_path: Path, line: str, words: str
) -> None:
    """A line that is not an object, or repeats a name, fails alone."""
    good = '{"a": "x:y"}'
    rows = await read(write(tmp_path / "x.jsonl", f"{good}\n{line}\n{good}\n"))
    assert [row.data for row in rows if not row.error] == [{"a": "x:y"}] * 2
    (bad,) = (row for row in rows if row.error)
    assert bad.line == 2
    assert words in bad.error


async def test_json_object_without_names_has_no_data(tmp_path: Path) -> None:
    """`{}` is a row without data, like a row of commas; null is a value."""
    rows = await read(write(tmp_path / "x.jsonl", '{}\n{"a": null}\n'))
    assert [row.data for row in rows] == [None, {"a": None}]


async def test_source_rejects_missing_file_and_directory(tmp_path: Path) -> None:
    """The error for a missing file or a directory names the reason."""
    assert "does not exist" in str(await refusal(tmp_path / "no.csv"))
    assert "is a directory" in str(await refusal(tmp_path))


async def test_json_lines_are_read(tmp_path: Path) -> None:
    """Objects are rows, blank lines are ignored, other lines are errors with an excerpt."""
    path = write(tmp_path / "x.jsonl", b'{"a": 1}\n\n[1]\n{"a": \n{"a": 2}')
    rows = await read(path)
    assert [(row.line, row.data) for row in rows if not row.error] == [
        (1, {"a": 1}),
        (5, {"a": 2}),
    ]
    assert [(row.line, row.data) for row in rows if row.error] == [(3, "[1]"), (4, '{"a":')]


async def test_json_reads_file_of_failed_rows(tmp_path: Path) -> None:
    """A file of failed rows gives the rows in its records; unreadable ones stay unreadable."""
    path = write(
        tmp_path / "s.db.failed.jsonl",
        '{"line":3,"number":2,"row":{"a":"1"},"reason":"no"}\n'
        '{"line":4,"number":3,"row":"[1]","reason":"is not a JSON object"}\n',
    )
    rows = await read(path)
    assert rows[0] == Row(1, 1, {"a": "1"})
    assert rows[1].error


async def test_source_closes_file_when_opening_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is closed when the thread that opens it is done."""
    opened: list[BufferedReader] = []
    may_open = threading.Event()

    class Noted(JsonReader):
        def __init__(self, path: Path, file: BufferedReader) -> None:
            may_open.wait()
            super().__init__(path, file)
            opened.append(file)

    monkeypatch.setattr("asyncclients.backfill.files.source._READERS", {".jsonl": Noted})
    opening = asyncio.create_task(open_source(write(tmp_path / "rows.jsonl", '{"a": 1}\n')))
    await asyncio.sleep(0)
    opening.cancel()
    may_open.set()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert [file.closed for file in opened] == [True]


async def test_source_close_survives_cancellation(tmp_path: Path) -> None:
    """The file is closed even if no thread was free at the time of the cancellation."""
    source = await open_source(write(tmp_path / "rows.jsonl", '{"a": 1}\n'))
    await cancel_without_a_free_thread(source.aclose())
    with pytest.raises(ValueError, match="closed file"):
        await source.chunk()


async def test_parquet_keeps_types(tmp_path: Path) -> None:
    """Parquet rows keep their types, without null values."""
    path = tmp_path / "x.parquet"
    arrow, parquet = pyarrow("pyarrow"), pyarrow()
    parquet.write_table(arrow.table({"a": [1, 2], "b": ["x", None]}), path)
    assert await read(path) == [Row(1, 1, {"a": 1, "b": "x"}), Row(2, 2, {"a": 2})]


def parquet_file(path: Path, columns: Any, **options: Any) -> Path:
    arrow, parquet = pyarrow("pyarrow"), pyarrow()
    parquet.write_table(arrow.table(columns), path, **options)
    return path


async def test_parquet_rows_without_values_have_no_data(tmp_path: Path) -> None:
    """A row of nulls is a row without data."""
    path = parquet_file(tmp_path / "x.parquet", {"a": [None, 1], "b": [None, "x"]})
    assert [row.data for row in await read(path)] == [None, {"a": 1, "b": "x"}]


def _arrays() -> dict[str, tuple[Any, Any]]:
    """Arrays of which the first value is out of Python's range, with what is read of the rest."""
    arrow = pyarrow("pyarrow")
    second = datetime.fromisoformat("1970-01-01T00:00:01")
    late = 253_402_300_800  # the year 10000
    return {
        "year 10000": (arrow.array([253_402_300_800_000, 1000], arrow.timestamp("ms")), second),
        "year -1": (arrow.array([-62_200_000_000, 1], arrow.timestamp("s")), second),
        "date": (arrow.array([2**31 - 1, 0], arrow.date32()), second.date()),
        "zone": (
            arrow.array([2**62, 1_000_000], arrow.timestamp("us", "UTC")),
            second.replace(tzinfo=UTC),
        ),
        "duration": (arrow.array([2**62, 1], arrow.duration("s")), timedelta(seconds=1)),
        "text": (
            arrow.array([b"\xff", b"x"], arrow.binary()).view(arrow.string()),
            "x",
        ),
        "list": (
            arrow.array([[late], [1]], arrow.list_(arrow.timestamp("s"))),
            [second],
        ),
        "struct": (
            arrow.array([{"t": late}, {"t": 1}], arrow.struct([("t", arrow.timestamp("s"))])),
            {"t": second},
        ),
        "dictionary": (
            arrow.array([late, 1], arrow.timestamp("s")).dictionary_encode(),
            second,
        ),
    }


@pytest.mark.parametrize("kind", [*_arrays()])
async def test_parquet_value_out_of_range_fails_its_row(tmp_path: Path, kind: str) -> None:
    """A value that Python cannot represent fails its row and names the column."""
    array, expected = _arrays()[kind]
    path = parquet_file(tmp_path / "x.parquet", {"n": [1, 2], "when": array})
    bad, good = await read(path)
    assert bad.error.startswith("when cannot be read: ")
    assert bad.data == {"n": 1}
    assert (good.data, good.error) == ({"n": 2, "when": expected}, "")


async def test_parquet_nanoseconds_are_rounded(tmp_path: Path) -> None:
    """Nanoseconds are rounded to microseconds, with and without pandas."""
    arrow = pyarrow("pyarrow")
    nanoseconds = [1_704_164_645_123_456_789, None]
    columns = {
        "stamp": arrow.array(nanoseconds, arrow.timestamp("ns", "Europe/Berlin")),
        "time": arrow.array([1_234_567, None], arrow.time64("ns")),
        "span": arrow.array([1_234_567, None], arrow.duration("ns")),
        "n": [1, 2],
    }
    first, second = await read(parquet_file(tmp_path / "x.parquet", columns))
    assert first.data["stamp"] == datetime(2024, 1, 2, 3, 4, 5, 123_456, tzinfo=UTC)
    assert first.data["time"] == time(0, 0, 0, 1234)
    assert first.data["span"] == timedelta(microseconds=1234)
    assert second.data == {"n": 2}


async def test_parquet_reads_all_types(tmp_path: Path) -> None:
    """Decimals, bytes, dictionaries, nested values and their nulls become Python objects."""
    arrow = pyarrow("pyarrow")
    columns = {
        "decimal": arrow.array([Decimal("1.50")]),
        "bytes": arrow.array([b"\xff\x00"]),
        "word": arrow.array(["x"]).dictionary_encode(),
        "list": arrow.array([[1, None]]),
        "struct": arrow.array([{"a": None, "b": "y"}]),
    }
    (row,) = await read(parquet_file(tmp_path / "x.parquet", columns))
    assert row.data == {
        "decimal": Decimal("1.50"),
        "bytes": b"\xff\x00",
        "word": "x",
        "list": [1, None],
        "struct": {"a": None, "b": "y"},
    }


async def test_parquet_rejects_repeated_column(tmp_path: Path) -> None:
    """Two columns of one name are an error, because a row could keep only one."""
    arrow, parquet = pyarrow("pyarrow"), pyarrow()
    path = tmp_path / "x.parquet"
    parquet.write_table(arrow.Table.from_arrays([[1], [2]], names=["a", "a"]), path)
    assert "names the column 'a' twice" in str(await refusal(path))


@pytest.mark.parametrize("compression", ["snappy", "zstd", "none"])
async def test_parquet_damage_is_an_error(tmp_path: Path, compression: str) -> None:
    """Damage anywhere in a Parquet file with checksums is an `InputError`."""
    columns = {"a": [f"{number * 7919:x}" for number in range(5000)]}
    path = parquet_file(
        tmp_path / "x.parquet",
        columns,
        compression=compression,
        write_page_checksum=True,
        row_group_size=1000,
    )
    whole = path.read_bytes()
    for place in range(100, len(whole), len(whole) // 12):
        damaged = bytearray(whole)
        damaged[place : place + 40] = bytes(byte ^ 0x5A for byte in damaged[place : place + 40])
        error = await refusal(write(path, bytes(damaged)))
        assert error.file == str(path)
        assert error.advice


async def test_source_reads_iterables() -> None:
    """Any iterable and any async iterable is a source."""

    async def rows() -> AsyncIterator[dict[str, int]]:
        for number in range(3):
            yield {"n": number}

    expected = [Row(number + 1, number + 1, {"n": number}) for number in range(3)]
    assert await read({"n": number} for number in range(3)) == expected
    assert await read(rows()) == expected
