"""The tables that workers on many machines share, beside those of their engine.

| table                   | one row for                                             |
|-------------------------|---------------------------------------------------------|
| `asyncclients_jobs`     | a backfill                                              |
| `asyncclients_batches`  | a batch of its rows; its content until it is finished   |
| `asyncclients_rows`     | a row that was sent, and what became of it              |
| `asyncclients_pages`    | a page that was pulled                                  |
| `asyncclients_workers`  | a worker, and how often its heart has beaten            |
"""

from __future__ import annotations

import sqlalchemy as sa

METADATA = sa.MetaData()

JOBS = sa.Table(
    "asyncclients_jobs",
    METADATA,
    sa.Column("job", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("lax", sa.Boolean, nullable=False),
)
BATCHES = sa.Table(
    "asyncclients_batches",
    METADATA,
    sa.Column("job", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("rows", sa.LargeBinary),
    sa.Column("requests", sa.Integer, nullable=False, default=0),
    sa.Column("rejected", sa.Integer, nullable=False, default=0),
    sa.Column("quotas", sa.Text),
)
ROWS = sa.Table(
    "asyncclients_rows",
    METADATA,
    sa.Column("job", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("run", sa.Text, nullable=False),
    sa.Column("fate", sa.Text, nullable=False),
    sa.Column("line", sa.Integer, nullable=False),
    sa.Column("row", sa.LargeBinary),
    sa.Column("reason", sa.Text, nullable=False),
)
sa.Index("asyncclients_rows_fate", ROWS.c.job, ROWS.c.fate)
PAGES = sa.Table(
    "asyncclients_pages",
    METADATA,
    sa.Column("job", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("length", sa.Integer, nullable=False),
    sa.Column("page", sa.LargeBinary, nullable=False),
)
WORKERS = sa.Table(
    "asyncclients_workers",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("beats", sa.Integer, nullable=False),
)
