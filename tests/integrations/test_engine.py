"""`asyncclients run --engine dbos` and `asyncclients worker`, as a user starts them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("dbos", reason="needs the extra [dbos]")

from asyncclients.cli.worker import write_rows
from asyncclients.errors import InputError
from asyncclients.sandbox import Sandbox

JOBS = """
[jobs.people]
push = "digital_onboarding.contacts"
file = "people.csv"

[jobs.nodes]
push = "intouch.hierarchies"
file = "nodes.csv"

[jobs.tags]
pull = "intouch.hierarchies"
to = "all.jsonl"
"""


async def start(environ: dict[str, str], *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "asyncclients",
        *arguments,
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


def write_inputs(directory: Path, root: str) -> None:
    nodes = [f"node-{n},Node,generic,{root}" for n in range(24)]
    (directory / "nodes.csv").write_text(
        "\n".join(["client_code,name,type,parent_uuid", *nodes, "bad,,,"]) + "\n"
    )
    people = [f"p{n}@example.com,P" for n in range(90)]
    (directory / "people.csv").write_text("\n".join(["email,first_name", *people]) + "\n")
    (directory / "jobs.toml").write_text(JOBS)


@pytest.mark.sweep
@pytest.mark.timeout(120)
async def test_run_and_a_worker_share_the_jobs_and_the_quota(tmp_path: Path) -> None:
    """All jobs are done once, by two processes that together stay within each strict quota."""
    async with Sandbox() as sandbox:
        write_inputs(tmp_path, sandbox.state("intouch").root_uuid)
        environ = {**os.environ, **sandbox.environ}
        where = ("--database-url", f"sqlite:///{tmp_path}/jobs.sqlite")
        worker = await start(environ, "worker", *where)
        assert worker.stderr is not None
        assert b"At work" in await worker.stderr.readline()
        run = ("run", str(tmp_path / "jobs.toml"), "--engine", "dbos", *where, "--json")
        first = await start(environ, *run)
        out, err = await first.communicate()
        assert first.returncode == 3, err.decode()
        reports = json.loads(out)
        sent = len(sandbox.requests("intouch"))
        again = await start(environ, *run)
        await again.communicate()
        worker.terminate()
        assert await worker.wait() == 0
        assert len(sandbox.requests("intouch")) == sent, "all was done before"
        codes = [str(n["client_code"]) for n in sandbox.state("intouch").hierarchies.values()]
        assert sandbox.summary("intouch").rejected == 0
    assert (reports["nodes"]["done"], reports["nodes"]["failed"]) == (24, 1)
    assert (reports["people"]["done"], reports["people"]["unknown"]) == (90, 0)
    assert sorted(c for c in codes if c.startswith("node-")) == sorted(
        f"node-{n}" for n in range(24)
    )
    assert b'"line":26' in (tmp_path / "nodes.csv.state.failed.jsonl").read_bytes()
    assert reports["tags"]["done"] == len((tmp_path / "all.jsonl").read_bytes().splitlines())


async def test_worker_works_until_it_is_terminated(tmp_path: Path) -> None:
    """A worker announces itself, and ends with 0 after SIGTERM."""
    where = ("--database-url", f"sqlite:///{tmp_path}/jobs.sqlite")
    worker = await start({**os.environ}, "worker", *where)
    assert worker.stderr is not None
    assert b"At work" in await worker.stderr.readline()
    worker.terminate()
    _, err = await worker.communicate()
    assert worker.returncode == 0, err.decode()


async def test_run_refreshes_a_pull_and_syncs(tmp_path: Path) -> None:
    """A refresh and a sync run in the process of `run`, with the quota that the workers share."""
    (tmp_path / "people.csv").write_text("email\na@example.com\n")
    (tmp_path / "jobs.toml").write_text(
        '[jobs.tags]\npull = "intouch.tags"\nto = "tags.jsonl"\nrefresh = true\n'
        'since = "updated_at"\n[jobs.people]\nsync = "intouch.contacts"\nfile = "people.csv"\n'
    )
    async with Sandbox() as sandbox:
        sandbox.state("intouch").grow(tags=30, every=60.0)
        environ = {**os.environ, **sandbox.environ}
        where = ("--database-url", f"sqlite:///{tmp_path}/jobs.sqlite")
        run = ("run", str(tmp_path / "jobs.toml"), "--engine", "dbos", *where, "--json")
        process = await start(environ, *run)
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    reports = json.loads(out)
    assert reports["tags"]["added"] == 30
    assert reports["people"]["created"] == 1


async def test_usage_is_checked_before_anything_is_sent(tmp_path: Path) -> None:
    """An engine without a database, and Postgres without a shared quota, are usage errors."""
    (tmp_path / "jobs.toml").write_text(JOBS)
    jobs = str(tmp_path / "jobs.toml")
    environ = dict(os.environ)
    alone = await start(environ, "run", jobs, "--engine", "dbos")
    unshared = await start(environ, "worker", "--database-url", "postgresql://host/db")
    (_, first), (_, second) = await asyncio.gather(alone.communicate(), unshared.communicate())
    assert (alone.returncode, unshared.returncode) == (2, 2)
    assert b"--database-url" in first
    assert b"--limits" in second


@pytest.mark.parametrize("kind", ["file", "symlink"])
def test_rows_are_never_written_over_a_file_of_somebody_else(tmp_path: Path, kind: str) -> None:
    """A list of rows replaces an older one, and nothing else; a link is not followed."""
    path, precious = tmp_path / "rows.csv.state.failed.jsonl", tmp_path / "precious"
    assert write_rows(path, [b'{"line":1}']) == str(path)
    assert write_rows(path, [b'{"line":2}', b'{"line":3}']) == str(path)
    assert path.read_bytes() == b'{"line":2}\n{"line":3}\n'
    path.unlink()
    precious.write_text("precious")
    if kind == "symlink":
        path.symlink_to(precious)
    else:
        path.write_text("precious")
    with pytest.raises(InputError, match="not a list of rows"):
        write_rows(path, [b'{"line":1}'])
    assert (path.read_text(), precious.read_text()) == ("precious", "precious")
