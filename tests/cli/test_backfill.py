"""`pull`, `push`, `status` and `run` as a user's shell sees them: output and exit codes."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from asyncio.subprocess import Process
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from cyclopts import Token

from asyncclients.cli.options import pairs
from asyncclients.sandbox import Sandbox, drop, status
from tests.support.command import Command, start
from tests.support.posix import posix


class Ended(NamedTuple):
    code: int | None
    out: str
    err: str


class Shell:
    """Runs `asyncclients` in a directory, with the sandbox in its environment."""

    def __init__(
        self, sandbox: Sandbox, directory: Path, renewed: Mapping[str, str] | None = None
    ) -> None:
        self._environ = {**os.environ, **sandbox.environ, **(renewed or {})}
        self._directory = directory
        self._secrets = [value for name, value in sandbox.environ.items() if "KEY" in name]

    async def start(self, *arguments: str) -> Command | Process:
        return await start(*arguments, environ=self._environ, directory=self._directory)

    async def end(self, process: Command | Process) -> Ended:
        out, err = (text.decode() for text in await process.communicate())
        assert not [secret for secret in self._secrets if secret in out + err]
        return Ended(process.returncode, out, err)

    async def run(self, *arguments: str) -> Ended:
        return await self.end(await self.start(*arguments))

    async def json(self, code: int, *arguments: str) -> Any:
        """Return the JSON that the command prints; it must end with *code*."""
        ended = await self.run(*arguments, "--json")
        assert ended.code == code, ended.err
        return msgspec.json.decode(ended.out)


@pytest.fixture
def shell(sandbox: Sandbox, tmp_path: Path) -> Shell:
    return Shell(sandbox, tmp_path)


async def test_push_with_names_of_ones_own(sandbox: Sandbox, shell: Shell, tmp_path: Path) -> None:
    """Columns are mapped and values set; bad rows make it 3; again it does nothing; status agrees."""
    (tmp_path / "people.csv").write_text("mail,first\na@example.com,Ann\nnobody,Bob\n")
    names = ("--map", "mail=email", "--map", "first=first_name", "--set", "language=en")
    report = await shell.json(3, "push", "intouch.contacts", "people.csv", *names)
    counts = ("done", "failed", "unknown", "skipped", "requests", "rejected")
    assert [report[name] for name in counts] == [1, 1, 0, 0, 2, 0]
    (contact,) = sandbox.state("intouch").contacts.values()
    assert (contact["first_name"], contact["language"]) == ("Ann", "en")
    again = await shell.run("push", "intouch.contacts", "people.csv", *names)
    assert (again.code, "0 requests" in again.out) == (3, True)
    assert "people.csv.state.failed.jsonl" in again.out
    found = await shell.json(3, "status", "people.csv.state")
    assert (found["done"], found["failed"], found["complete"]) == (1, 1, True)


async def test_push_dry_run_sends_and_writes_nothing(
    sandbox: Sandbox, shell: Shell, tmp_path: Path
) -> None:
    """A dry run shows counts, first request and invalid rows, also for a file of jobs; with 3."""
    (tmp_path / "people.csv").write_text("email,age\na@example.com,7\n,8\n")
    (tmp_path / "jobs.toml").write_text(
        "[jobs.people]\npush = 'intouch.contacts'\nfile = 'people.csv'\n"
        "[jobs.tags]\npull = 'intouch.tags'\nto = 'tags.jsonl'\n"
    )
    before = sorted(tmp_path.iterdir())
    command = ("push", "intouch.contacts", "people.csv", "--dry-run")
    plan = await shell.json(3, *command)
    counts = ("rows", "valid", "invalid", "skipped", "requests")
    assert [plan[name] for name in counts] == [2, 1, 1, 0, 1]
    assert plan["preview"]["body"] == '{"email":"a@example.com"}'
    assert [row["line"] for row in plan["failures"]] == [3]
    ended = await shell.run(*command)
    assert (ended.code, "Nothing was sent" in ended.out) == (3, True)
    assert 'First request: POST /public/v1/contacts {"email":"a@example.com"}' in ended.out
    assert "Invalid: line 3: " in ended.out
    (tmp_path / "german.csv").write_text("email,language\n" + "a@example.com,de\n" * 30 + ",en\n")
    grouped = await shell.run("push", "intouch.contacts", "german.csv", "--dry-run")
    invalid = [line for line in grouped.out.splitlines() if line.startswith("Invalid: ")]
    assert [line[:30] for line in invalid] == ["Invalid: 30 rows, first line 2", invalid[1][:30]]
    assert invalid[1].startswith("Invalid: line 32: ")
    (tmp_path / "german.csv").unlink()
    plans = await shell.json(3, "run", "jobs.toml", "--dry-run")
    assert plans == {"people": plan}
    assert sandbox.requests("intouch") == ()
    assert sorted(tmp_path.iterdir()) == before
    limited = await shell.json(0, *command, "--limit", "1")
    assert (limited["rows"], limited["invalid"]) == (1, 0)


async def test_share_of_a_command_and_of_a_job_file(
    sandbox: Sandbox, shell: Shell, tmp_path: Path
) -> None:
    """A dry run states the time at the share; one out of range is a usage error that names it."""
    (tmp_path / "people.csv").write_text("email\n" + "".join(f"p{n}@x.org\n" for n in range(41)))
    command = ("push", "intouch.contacts", "people.csv", "--dry-run")
    whole, half = await shell.json(0, *command), await shell.json(0, *command, "--share", "0.5")
    assert half["seconds"] == pytest.approx(2 * whole["seconds"], rel=0.1)
    jobs = "[jobs.people]\npush = 'intouch.contacts'\nfile = 'people.csv'\nshare = {}\n"
    (tmp_path / "jobs.toml").write_text(jobs.format("0.5"))
    plans = await shell.json(0, "run", "jobs.toml", "--dry-run")
    assert plans["people"]["seconds"] == pytest.approx(half["seconds"])
    (tmp_path / "jobs.toml").write_text(jobs.format("1.5"))
    ended = await shell.run("run", "jobs.toml")
    assert (ended.code, "jobs.people: Expected `float` <= 1.0 - at `$.share`" in ended.err) == (
        2,
        True,
    )
    ended = await shell.run(*command, "--share", "0")
    assert (ended.code, "--share" in ended.err) == (2, True)
    assert sandbox.requests("intouch") == ()


async def test_push_with_a_limit_is_continued(
    sandbox: Sandbox, shell: Shell, tmp_path: Path
) -> None:
    """A limited push shows how to continue; the same command does, and status agrees."""
    lines = "".join(f"p{number}@example.com\n" for number in range(5))
    (tmp_path / "people.csv").write_text(f"email\n{lines}")
    command = ("push", "intouch.contacts", "people.csv", "--limit", "3")
    ended = await shell.run(*command)
    assert (ended.code, "Not complete" in ended.out) == (0, True)
    assert "not complete" in (await shell.run("status", "people.csv.state")).out
    report = await shell.json(0, *command)
    assert (report["done"], report["complete"], report["requests"]) == (5, True, 2)
    assert len(sandbox.state("intouch").contacts) == 5
    assert ": complete" in (await shell.run("status", "people.csv.state")).out


async def test_push_prints_a_warning_about_ignored_columns(shell: Shell, tmp_path: Path) -> None:
    """Warnings of the library are printed to standard error; the rows are sent."""
    (tmp_path / "people.csv").write_text("email,nickname\na@example.com,Al\n")
    ended = await shell.run("push", "intouch.contacts", "people.csv")
    assert (ended.code, ended.out[:6]) == (0, "1 done")
    assert "Warning: people.csv: NewContact has no field for nickname: ignored\n" in ended.err


async def test_push_retries_failed_rows(sandbox: Sandbox, shell: Shell, tmp_path: Path) -> None:
    """Corrected rows of the file of failed rows are sent; the counts move from failed to done."""
    (tmp_path / "people.csv").write_text("email\na@example.com\nnobody\nb@example.com\n")
    command = ("push", "intouch.contacts", "people.csv")
    assert (await shell.json(3, *command))["failed"] == 1
    failed = tmp_path / "people.csv.state.failed.jsonl"
    failed.write_text(failed.read_text().replace('"nobody"', '"c@example.com"'))
    plan = await shell.json(0, *command, "--retry-failed", "--dry-run")
    assert (plan["rows"], plan["preview"]["body"]) == (1, '{"email":"c@example.com"}')
    report = await shell.json(0, *command, "--retry-failed")
    assert (report["done"], report["failed"], report["requests"]) == (3, 0, 1)
    assert len(sandbox.state("intouch").contacts) == 3
    assert not failed.exists()


async def test_unverified_pull_ends_with_0(sandbox: Sandbox, shell: Shell) -> None:
    """A vendor that counts more than it shows: both commands say so, and end with 0."""
    page = b'{"current_page": 1, "last_page": 1, "total": 5, "data": [{"uuid": "a", "name": "b"}]}'
    sandbox.fail("intouch", status(200, page), times=None)
    for command in (("pull", "intouch.tags", "--to", "out.jsonl"), ("status", "out.jsonl.state")):
        ended = await shell.run(*command)
        assert (ended.code, "counts 5 items, 1 were found" in ended.out) == (0, True), ended


async def test_pull_into_a_table(sandbox: Sandbox, shell: Shell, tmp_path: Path) -> None:
    """A list becomes a CSV file, with exit code 0; a second run reports that it is complete."""
    sandbox.state("intouch").grow(contacts=30)
    ended = await shell.run("pull", "intouch.contacts", "--to", "out.csv")
    assert (ended.code, ended.out.startswith("30 done, 0 failed")) == (0, True)
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 31
    again = await shell.run("pull", "intouch.contacts", "--to", "out.csv")
    assert (again.code, "delete out.csv.state to repeat it" in again.err) == (0, True)
    found = await shell.run("status", "out.csv.state")
    assert (found.code, "30 of 30 done" in found.out) == (0, True)


async def test_pull_refresh(sandbox: Sandbox, shell: Shell, tmp_path: Path) -> None:
    """A refresh reports the differences and writes them to a file; `status` shows the last one."""
    held = sandbox.state("intouch")
    held.grow(contacts=30, every=60.0)
    pull = ("pull", "intouch.contacts", "--to", "out.csv", "--refresh")
    assert (await shell.run(*pull)).code == 0
    uuids = [*held.contacts]
    changed = {**held.contacts[uuids[3]], "updated_at": "2026-01-01T00:00:01+00:00"}
    held.contacts[uuids[3]] = changed
    ended = await shell.run(*pull, "--since", "updated_at", "--changes", "changes.jsonl")
    assert (ended.code, "Refresh: 0 added, 1 changed, 0 removed, 29 unchanged" in ended.out) == (
        0,
        True,
    ), ended
    change = msgspec.json.decode((tmp_path / "changes.jsonl").read_bytes())
    assert (change["op"], change["key"], change["item"]["uuid"]) == ("changed", *[uuids[3]] * 2)
    found = await shell.run("status", "out.csv.state")
    assert "Last refresh (since updated_at), " in found.out
    assert (await shell.json(0, "status", "out.csv.state"))["refreshed"]["changed"] == 1


async def test_run_refreshes_pull_of_job_file(
    sandbox: Sandbox, shell: Shell, tmp_path: Path
) -> None:
    """The options of a refresh are keys of a job; its file of changes is beside the job file."""
    sandbox.state("intouch").grow(tags=30)
    (tmp_path / "jobs.toml").write_text(
        '[jobs.tags]\npull = "intouch.tags"\nto = "tags.jsonl"\nrefresh = true\n'
        'since = "updated_at"\nlag = 60\nchanges = "changes.jsonl"\n'
    )
    assert (await shell.json(0, "run", "jobs.toml"))["tags"]["added"] == 30
    assert (await shell.json(0, "run", "jobs.toml"))["tags"]["unchanged"] == 30
    assert (tmp_path / "changes.jsonl").read_bytes() == b""
    (tmp_path / "jobs.toml").write_text(
        '[jobs.tags]\npull = "intouch.tags"\nto = "t.jsonl"\nchanges = "changes.jsonl"\n'
    )
    ended = await shell.run("run", "jobs.toml")
    assert (ended.code, "are for a refresh" in ended.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pull", "intouch.tags", "--to", "x.jsonl", "--since", "updated_at"], "for a refresh"),
        (
            ["pull", "intouch.tags", "--to", "x.jsonl", "--refresh", "--since", "name"],
            "by no time 'name'",
        ),
        (
            ["pull", "emma.touchpoint_types", "--to", "x.jsonl", "--refresh", "--since", "at"],
            "cannot be sorted by 'at'",
        ),
        (["push", "intouch.contacts", "no.csv"], "no.csv does not exist"),
        (["push", "intouch.contacts", "x.csv"], "has no column email"),
        (["push", "intouch.contacts", "x.csv", "--map", "nome=email"], "no column 'nome'"),
        (["push", "intouch.contacts", "x.csv", "--map", "name"], "'name' is not NAME=VALUE"),
        (["push", "intouch.contracts", "x.csv"], "it has: contacts, "),
        (["push", "intouch.contacts.list", "x.csv"], "has no argument for a row"),
        (["push", "intuch.contacts", "x.csv"], "there is no vendor 'intuch'"),
        (["push", "intouch.external_programs", "x.csv"], "--with NAME=VALUE"),
        (["push", "intouch.tags", "x.csv", "--state", "x.csv"], "cannot be its state file"),
        (
            ["push", "intouch.tags", "x.csv", "--state", "no/state"],
            "in a directory that does not exist",
        ),
        (["pull", "intouch.contacts", "--to", "x.pdf"], "name it .jsonl, .csv or .parquet"),
        (["pull", "intouch.contacts", "--to", "x.csv", "--query", "color=red"], "'color'"),
        (["status", "x.csv"], "is not a state file"),
        (["status", "none"], "does not exist"),
        (["run", "x.csv"], "x.csv"),
        (["run", "bad.toml"], "needs one of `pull`, `push` and `sync`"),
        (["run", "map.toml"], "jobs.a: Expected `str`, got `int` - at `$.map[...]`"),
    ],
)
async def test_unusable_input_is_2_and_sends_nothing(
    sandbox: Sandbox, shell: Shell, tmp_path: Path, arguments: list[str], words: str
) -> None:
    """Unusable input is named with the remedy, before anything is sent; no traceback."""
    (tmp_path / "x.csv").write_text("name\nx\n")
    (tmp_path / "bad.toml").write_text("[jobs.a]\nto = 'x.jsonl'\n")
    job = "[jobs.a]\npush = 'intouch.contacts'\nfile = 'x.csv'\nmap = {name = 5}\n"
    (tmp_path / "map.toml").write_text(job)
    ended = await shell.run(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert words in ended.err
    assert "Traceback" not in ended.err
    assert sandbox.requests("intouch") == ()
    assert (tmp_path / "x.csv").read_text() == "name\nx\n"


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_interrupted_job_is_saved_and_resumed(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end with 130; a second process gets 1; the next run completes the job."""
    (tmp_path / "tags.csv").write_text("name\n" + "".join(f"t{n}\n" for n in range(14)))
    async with Sandbox({"intouch": (4, 1.0)}) as sandbox:
        shell = Shell(sandbox, tmp_path)
        push = ("push", "intouch.tags", "tags.csv")
        process = await shell.start(*push)
        async with asyncio.timeout(30):
            while not sandbox.requests("intouch"):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.01)
        second = await shell.run(*push)
        assert second.code == 1
        assert f"in use by process {process.pid}" in second.err
        process.send_signal(number)
        first = await shell.end(process)
        assert first.code == 130
        assert "tags.csv.state" in first.err
        assert len(sandbox.state("intouch").tags) < 14
        stopped = await shell.run("status", "tags.csv.state")
        assert stopped.out.startswith("push tags.csv -> intouch.tags.create: not complete\n")
        assert re.search(r"\d of 14 done, .*; [1-9][0-9]* remain", stopped.out), stopped.out
        report = await shell.json(0, *push)
        names = sorted(str(tag["name"]) for tag in sandbox.state("intouch").tags.values())
    assert (report["done"], report["unknown"]) == (14, 0)
    assert names == sorted(f"t{n}" for n in range(14))


async def test_unknown_rows_are_listed_sent_and_dropped(
    sandbox: Sandbox, shell: Shell, tmp_path: Path
) -> None:
    """`status` lists each unknown row with its line; the user decides whether to send it again."""
    (tmp_path / "tags.csv").write_text("name\nred\ngreen\n")
    sandbox.fail("intouch", drop(), 2)
    push = ("push", "intouch.tags", "tags.csv")
    assert (await shell.json(3, *push))["unknown"] == 2
    listed = await shell.run("status", "tags.csv.state")
    assert listed.code == 3
    assert "unknown: line 2: " in listed.out
    assert '{"name":"green"}' in listed.out
    both = await shell.run(*push, "--resend-unknown", "--drop-unknown")
    assert both.code == 2
    sent = await shell.json(0, *push, "--resend-unknown")
    assert (sent["done"], sent["unknown"]) == (2, 0)
    sandbox.fail("intouch", drop(), 2)
    other = (*push, "--state", "other")
    await shell.json(3, *other)
    dropped = await shell.json(0, *other, "--drop-unknown")
    assert (dropped["skipped"], dropped["unknown"], dropped["requests"]) == (2, 0, 0)


async def test_jobs_of_a_file_run_together(sandbox: Sandbox, shell: Shell, tmp_path: Path) -> None:
    """Jobs of a file run together; one that fails later leaves the others alone and makes it 1.

    One whose file is missing is found before the first one starts.
    """
    sandbox.state("intouch").grow(contacts=30)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "tags.csv").write_text("name\nred\n")
    (tmp_path / "jobs" / "all.toml").write_text(
        """
        [jobs.contacts]
        pull = "intouch.contacts"
        to = "contacts.jsonl"
        query = { sort_by = "email" }
        [jobs.tags]
        push = "intouch.tags"
        file = "tags.csv"
        [jobs.nothing]
        push = "intouch.tags"
        file = "nothing.csv"
        """
    )
    ended = await shell.run("run", "jobs/all.toml")
    assert (ended.code, ended.out) == (2, "")
    assert "jobs/all.toml: nothing: jobs/nothing.csv does not exist" in ended.err
    assert sandbox.requests("intouch") == ()
    (tmp_path / "jobs" / "nothing.csv").write_text('name\n"blue\n')
    told = await shell.json(1, "run", "jobs/all.toml")
    assert (told["contacts"]["done"], told["tags"]["done"]) == (30, 1)
    assert told["nothing"]["error"] == "InputError"
    assert (tmp_path / "jobs" / "contacts.jsonl").exists()
    (tmp_path / "jobs" / "nothing.csv").write_text("name\nblue\n")
    again = await shell.run("run", "jobs/all.toml")
    assert (again.code, "nothing: 1 done" in again.out) == (0, True)
    assert "contacts: the pull was complete already; refresh it" in again.err
    assert "tags: the" not in again.err


def test_pairs() -> None:
    """NAME=VALUE; the value may be empty and hold more of them."""

    def read(*texts: str) -> dict[str, str]:
        return pairs(dict, [Token(value=text) for text in texts])

    assert read("a=b", "c=", "d=e=f") == {"a": "b", "c": "", "d": "e=f"}
    assert read() == {}
    for text in ("a", "=b"):
        with pytest.raises(ValueError, match="NAME=VALUE"):
            read(text)


@pytest.mark.parametrize("kind", ["push", "pull", "run"])
async def test_new_credential_option_resumes_with_a_renewed_key(
    sandbox: Sandbox, shell: Shell, tmp_path: Path, kind: str
) -> None:
    """Another key exits with 2 and names the option; with it, the job is resumed."""
    (tmp_path / "people.csv").write_text("email\na@example.com\n")
    table = '[jobs.a]\npull = "intouch.tags"\nto = "out.jsonl"\n'
    (tmp_path / "jobs.toml").write_text(table)
    commands = {
        "push": ("push", "intouch.contacts", "people.csv"),
        "pull": ("pull", "intouch.tags", "--to", "out.jsonl"),
        "run": ("run", "jobs.toml"),
    }
    assert (await shell.run(*commands[kind])).code == 0
    sent = len(sandbox.requests("intouch"))
    renewed = Shell(sandbox, tmp_path, sandbox.issue("intouch"))
    ended = await renewed.run(*commands[kind])
    assert ended.code == 2
    assert "--new-credential" in ended.out + ended.err
    (tmp_path / "jobs.toml").write_text(table + "new_credential = true\n")
    options = () if kind == "run" else ("--new-credential",)
    assert (await renewed.run(*commands[kind], *options)).code == 0
    assert len(sandbox.requests("intouch")) == sent
