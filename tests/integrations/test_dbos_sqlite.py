"""DBOS runs on the SQLite of older systems."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing

import pytest

pytest.importorskip("dbos", reason="needs the extra [dbos]")

from asyncclients.integrations.dbos.sqlite import Connection


def test_connection_has_the_default_that_dbos_declares() -> None:
    """A column that defaults to the time in milliseconds is filled on any version of SQLite."""
    with closing(sqlite3.connect(":memory:", factory=Connection)) as connection:
        connection.execute(
            "CREATE TABLE t (at BIGINT NOT NULL DEFAULT (unixepoch('subsec') * 1000))"
        )
        before = time.time()
        connection.execute("INSERT INTO t DEFAULT VALUES")
        (at,) = connection.execute("SELECT at FROM t").fetchone()
    assert before - 0.002 <= at / 1000 <= time.time() + 0.002
