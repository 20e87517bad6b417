"""Connections to SQLite as DBOS expects them."""

from __future__ import annotations

import sqlite3
import time
from typing import Any


class Connection(sqlite3.Connection):
    """A connection on which `unixepoch('subsec')` works, whatever the version of SQLite.

    DBOS takes the time from that function on Python 3.12 and newer. SQLite before 3.42, as in
    Debian 12, returns NULL, and each insertion fails.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.execute("SELECT unixepoch('subsec')").fetchone()[0] is None:
            self.create_function("unixepoch", 1, _unixepoch)


def _unixepoch(modifier: str) -> float:
    """Return the seconds since 1970, with milliseconds; SQLite reports any other use as an error."""
    if modifier != "subsec":
        raise ValueError(modifier)
    return round(time.time(), 3)
