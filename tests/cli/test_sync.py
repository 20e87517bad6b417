"""`sync` as a user's shell sees it: output, exit codes, job files and status."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asyncclients.cli import run
from asyncclients.sandbox import Sandbox

from .test_backfill import Shell


@pytest.fixture
def shell(sandbox: Sandbox, tmp_path: Path) -> Shell:
    return Shell(sandbox, tmp_path)


async def test_sync_prints_its_report_and_status(
    sandbox: Sandbox, shell: Shell, tmp_path: Path
) -> None:
    """Columns are mapped; a limit is continued; the status has the last run and its plan."""
    rows = [f"p{number}@example.com,Name" for number in range(5)]
    (tmp_path / "people.csv").write_text("\n".join(["mail,first_name", *rows, "nobody,X"]) + "\n")
    command = ("sync", "intouch.contacts", "people.csv", "--key", "email", "--map", "mail=email")
    ended = await shell.run(*command, "--dry-run")
    assert ended.code == 0, ended.err
    assert "6 to create, 0 to update" in ended.out
    assert "First request: POST /public/v1/contacts" in ended.out
    assert not (tmp_path / "people.csv.state").exists()
    ended = await shell.run(*command, "--limit", "2")
    assert ended.code == 0, ended.err
    assert "2 created" in ended.out
    assert "4 changes remain: run the same command to continue" in ended.out
    report = await shell.json(3, *command)
    assert (report["created"], report["unchanged"], report["failed"]) == (3, 2, 1)
    found = await shell.run("status", "people.csv.state")
    assert found.code == 3
    assert "sync people.csv -> intouch.contacts: complete" in found.out
    assert "Planned: 4 creates, 0 updates, 0 deletions" in found.out
    assert "3 created, 0 updated" in found.out
    (tmp_path / "people.csv").write_text("mail,first_name\np0@example.com,New\n")
    ended = await shell.run(*command, "--on-missing", "delete", "--retry-failed")
    assert ended.code == 0, ended.err
    assert "1 updated, 4 deleted, 0 unchanged" in ended.out
    assert len(sandbox.state("intouch").contacts) == 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("intouch.contacts", "people.csv", "--key", "mail"), "identified by 'email'"),
        (("intouch.contacts.create", "people.csv"), "without a method"),
        (("intouch.nothing", "people.csv"), "intouch has no 'nothing'"),
        (("intempt.collections", "people.csv", "--key", "email"), "cannot be the target"),
        (("totango.touchpoints", "people.csv"), "needs key="),
        (("intouch.tags", "people.csv"), "no column name"),
        (("intouch.contacts", "absent.csv"), "does not exist"),
        (("digital_onboarding.contacts", "u.csv", "--on-missing", "delete"), "no way to delete"),
        (("digital_onboarding.contacts", "u.csv", "--adopt"), "no list of contacts"),
    ],
)
def test_sync_names_wrong_arguments(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    problem: str,
) -> None:
    """Each is one sentence and exit code 2, before credentials are required."""
    (tmp_path / "people.csv").write_text("email\na@example.com\n")
    (tmp_path / "u.csv").write_text("unique_id\n1\n")
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("INTOUCH_")]:
        monkeypatch.delenv(name)
    assert run(["sync", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert problem in " ".join(printed.err.split())
    assert not [*tmp_path.glob("*.state")]


async def test_run_accepts_syncs(sandbox: Sandbox, shell: Shell, tmp_path: Path) -> None:
    """A job file may have syncs beside other jobs."""
    (tmp_path / "tags.csv").write_text("name\nRed\nBlue\n")
    (tmp_path / "jobs.toml").write_text(
        '[jobs.tags]\nsync = "intouch.tags"\nfile = "tags.csv"\nadopt = true\n'
        'on_missing = "delete"\n[jobs.list]\npull = "intouch.contacts"\nto = "contacts.jsonl"\n'
    )
    plans = await shell.json(0, "run", "jobs.toml", "--dry-run")
    assert plans["tags"]["create"] == 2
    reports = await shell.json(0, "run", "jobs.toml")
    assert reports["tags"]["created"] == 2
    assert {row["name"] for row in sandbox.state("intouch").tags.values()} == {"Red", "Blue"}
    (tmp_path / "jobs.toml").write_text('[jobs.tags]\nsync = "intouch.tags"\n')
    ended = await shell.run("run", "jobs.toml")
    assert (ended.code, "a sync needs `file`" in ended.err) == (2, True)
