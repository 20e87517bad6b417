"""Mistakes on the command line: one sentence, exit code 2, and nothing changed anywhere."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App

from asyncclients.cli import app, run
from asyncclients.cli.jobs import job_of, table_of
from asyncclients.cli.operations import CLIENTS
from asyncclients.cli.options import PullOptions, PushOptions
from asyncclients.sandbox import Sandbox
from tests.support.command import start

PUSH, PULL = ("push", "intouch.contacts"), ("pull", "intouch.contacts")
RECORDS = ("push", "intouch.external_programs")
TO = ("--to", "out.jsonl")
MISTAKES: list[tuple[tuple[str, ...], str]] = [
    # Arguments that are missing, unknown, or of another kind.
    (("push",), "TARGET requires an argument. Write it as in: asyncclients push intouch.contacts "),
    (PUSH, "FILE requires an argument. Write it as in: asyncclients push intouch.contacts people"),
    (PULL, "--to requires an argument. Write it as in: asyncclients pull intouch.contacts --to"),
    (("status",), "STATE requires an argument. Write it as in: asyncclients status people.csv.st"),
    (("run",), "FILE requires an argument. Write it as in: asyncclients run jobs.toml"),
    (("pull", "intouch.contacts", "out.csv"), "--to requires an argument"),
    (("pussh",), "Did you mean"),
    ((*PUSH, "people.csv", "--concurency", "3"), "Did you mean --concurrency?"),
    ((*PUSH, "people.csv", "--max-failed", "10%"), "--max-failed"),
    (("intouch.contacts",), "Available commands: demo, pull, push"),
    (("simulate", "--quota", "2"), "Write LIMIT/SECONDS, as in 2/1"),
    (("simulate", "--quota", "0/1"), "Write LIMIT/SECONDS, as in 2/1"),
    (("simulate", "--server", "fixed"), "there is no server model 'fixed'"),
    (("sandbox", "--port", "99999999"), "--port"),
    (("demo", "--fst"), "Did you mean --fast?"),
    ((*PUSH, "in.csv", "--state"), "--state requires an argument"),
    # Arguments that are superfluous.
    (
        (*PUSH, "in.csv", "more.csv"),
        "push takes only TARGET and FILE; 'more.csv' is superfluous. Write it as in: asyncclients pu",
    ),
    ((*PUSH, "in.csv", "--map", "name=email", "x=y"), "'x=y' is superfluous. Write it as in: asy"),
    ((*PULL, "out.csv", *TO), "takes only SOURCE; 'out.csv' is superfluous. Write it as in: async"),
    (
        ("sync", "intouch.contacts", "in.csv", "email"),
        "sync takes only TARGET and FILE; 'email' is",
    ),
    (("status", "a.state", "b.state"), "takes only STATE; 'b.state' is superfluous. Write it as"),
    (("run", "jobs.toml", "more.toml"), "Write it as in: asyncclients run jobs.toml"),
    (("demo", "fast", "web"), "demo takes only options; 'fast' and 'web' are superfluous. Write"),
    (("sandbox", "8000"), "Write it as in: asyncclients sandbox --port 8000"),
    (("simulate", "2/1"), "Write it as in: asyncclients simulate --quota 2/1"),
    (("--install-completion", "zsh"), "takes only options; 'zsh' is superfluous."),
    (("doctor", "limits.db"), "Write it as in: asyncclients doctor --limits limits.db"),
    (("worker", "redis://host"), "Write it as in: asyncclients worker --database-url postgresql"),
    (("limits", "show", "intouch"), "limits show takes only options; 'intouch' is superfluous. "),
    (("limits", "pause", "intouch", "600"), "as in: asyncclients limits pause intouch --seconds "),
    (("limits", "resume", "intouch", "emma"), "Write it as in: asyncclients limits resume intouch"),
    (
        ("limits", "set", "intouch", "2/1", "9/60"),
        "Write it as in: asyncclients limits set intouch",
    ),
    (
        ("limits", "set", "intouch", "--quota", "2/1", "9/60"),
        "set intouch --quota 2/1 --quota 100/60",
    ),
    # Values and options that cannot be.
    ((*PUSH, "in.csv", "--frobnicate"), "--frobnicate"),
    ((*PUSH, "in.csv", "--concurrency", "many"), "--concurrency"),
    ((*PUSH, "in.csv", "--concurrency", "0"), "--concurrency"),
    ((*PUSH, "in.csv", "--max-failed", "2"), "--max-failed"),
    ((*PULL, *TO, "--max-failed", "-1"), "--max-failed"),
    ((*PUSH, "people.csv", "--share", "60"), "Write it as in: --share 0.6"),
    ((*PUSH, "people.csv", "--share", "60%"), "Write it as in: --share 0.6"),
    (("simulate", "--hours", "1h"), "Write it as in: --hours 1"),
    (("simulate", "--quota", "100/day"), "Write LIMIT/SECONDS, as in 2/1 or 100/60"),
    ((*PUSH, "in.csv", "--resend-unknown", "--drop-unknown"), "--resend-unknown or --drop-unknown"),
    (("run", "jobs.toml", "--engine", "cron"), "cron"),
    (("frobnicate",), "frobnicate"),
    # Names of vendors, resources and operations.
    (
        ("push", "intuch.contacts", "in.csv"),
        "there is no vendor 'intuch' (did you mean 'intouch'?); ",
    ),
    (("push", "Intouch.contacts", "in.csv"), "(did you mean 'intouch'?)"),
    (("push", "contacts", "in.csv"), "write VENDOR.RESOURCE, as in intouch.contacts"),
    (
        ("push", "in.csv", "intouch.contacts"),
        "write VENDOR.RESOURCE, as in intouch.contacts; there",
    ),
    (("push", "intouch.", "in.csv"), "intouch needs a resource, as in intouch.contacts; it has"),
    (("sync", "people.csv", "intouch.contacts"), "there is no vendor 'people'"),
    (("simulate", "--no-json"), "--no-json"),
    (("push", "intouch.contracts", "in.csv"), "'contracts' (did you mean 'contacts'?); it has"),
    (("push", "intouch.contacts.creat", "in.csv"), "has no creat (did you mean 'create'?); it "),
    (("push", "intouch", "in.csv"), "it has: contacts, "),
    (("push", "intouch._pool", "in.csv"), "intouch has no '_pool'"),
    (("push", "intouch.contacts.make", "in.csv"), "intouch.contacts has no make"),
    (("push", "intouch.contacts.get", "in.csv"), "has no argument for a row"),
    (("push", "totango.activity_types", "in.csv"), "totango.activity_types has no create or"),
    (("pull", "intouch.contract", *TO), "intouch has no 'contract'"),
    (("pull", "intouch.contacts.create", *TO), "is not a list"),
    (("pull", "intouch.contacts.get", *TO), "is not a list"),
    (("pull", "intouch.external_programs", *TO), "it has: add_record, update_record"),
    # Arguments of operations.
    ((*PUSH, "in.csv", "--with", "contact"), "Write it as in: --with program_uuid=4711"),
    ((*PUSH, "in.csv", "--map", "name:email"), "'name:email' is not NAME=VALUE"),
    ((*PULL, *TO, "--query", "sort=email"), "'sort' (did you mean 'sort_by'?); it has: sort_by"),
    ((*PULL, *TO, "--query", "sort_by=emial"), "not 'emial' (did you mean 'email'?)"),
    ((*PULL, *TO, "--query", "limit=50"), "limit must be a number from 1 to 25, not 50"),
    ((*PULL, *TO, "--query", "page=0"), "page must be a number of at least 1, not 0"),
    ((*PUSH, "in.csv", "--with", "=x"), "'=x' is not NAME=VALUE"),
    ((*PUSH, "in.csv", "--with", "color=red"), "no argument 'color'; it has: contact"),
    ((*PUSH, "in.csv", "--with", "contact={}"), "contact"),
    ((*PULL, *TO, "--query", "search=caf\udce9"), "is not valid UTF-8"),
    (
        ("push", "intempt.collections.upload_csv", "in.csv", "--with", "collection_id=1"),
        "has no argument for a row",
    ),
    ((*RECORDS, "in.csv"), "also takes program_uuid: give --with NAME=VALUE"),
    ((*RECORDS, "in.csv", "--with", "program_uuid=1", "--with", "program_uuid=2"), "given twice"),
    (("push", "emma.touchpoint_types.update", "in.csv"), "also takes id, type_name"),
    (
        ("push", "emma.touchpoint_types.update", "in.csv", "--with", "id=first"),
        "--with id: must be int, not 'first'",
    ),
    ((*PULL, *TO, "--query", "color=red"), "no argument 'color'; it has: sort_by, "),
    ((*PULL, *TO, "--query", "limit=few"), "--query limit: must be int, not 'few'"),
    ((*PULL, *TO, "--query", "order=up"), "--query order: must be asc or desc, not 'up'"),
    ((*PULL, *TO, "--query", "search"), "'search' is not NAME=VALUE"),
    (("pull", "totango.events", *TO), "needs account_id: give --query account_id=VALUE"),
    # Files and columns.
    ((*PUSH, "none.csv"), "none.csv does not exist"),
    (("sync", "intouch.contact", "people.csv"), "'contact' (did you mean 'contacts'?); it has"),
    (("sync", "intouch.contacts", "none.csv"), "none.csv does not exist"),
    (("sync", "intouch.contacts"), "Write it as in: asyncclients sync intouch.contacts people.csv"),
    ((*PULL, *TO, "--refresh", "--since", "created"), "Give one of created_at, updated_at"),
    ((*PUSH, "folder"), "folder is a directory"),
    ((*PUSH, "in.txt"), "in.txt"),
    ((*PUSH, "people.csv", "--state", "none/state"), "none/state is in a directory"),
    ((*PUSH, "people.csv", "--state", "folder"), "folder is a directory"),
    ((*PUSH, "people.csv", "--state", "in.csv"), "in.csv is not a state file"),
    ((*PUSH, "empty.csv"), "empty.csv: is empty. Its first line must name the columns"),
    ((*PUSH, "semicolons.csv"), "is separated by semicolons (';'), not by commas"),
    ((*PUSH, "mail.csv"), "has no column email (did you mean 'mail'?); it has: mail"),
    ((*PUSH, "people.csv", "--map", "emial=email"), "no column 'emial' (did you mean 'email'?)"),
    ((*PUSH, "people.csv", "--map", "email=emial"), "names 'emial' (did you mean 'email'?), wh"),
    ((*PUSH, "people.csv", "--set", "langage=en"), "(did you mean 'language'?)"),
    ((*PUSH, "in.csv", "--map", "mail"), "'mail' is not NAME=VALUE"),
    ((*PUSH, "in.csv", "--map", "post=email"), "no column 'post'"),
    ((*PUSH, "in.csv"), "has no column email"),
    (("push", "intouch.tags", "people.csv"), "has no column name"),
    (("push", "intouch.tags.delete", "in.csv"), "has no column uuid"),
    ((*PULL, "--to", "out.xlsx"), "out.xlsx has no known suffix"),
    ((*PULL, "--to", "none/out.csv"), "none/out.csv is in a directory"),
    ((*PULL, "--to", "folder"), "folder is a directory"),
    (("status", "none"), "none"),
    (("status", "in.csv"), "is not a state file"),
    (("run", "none.toml"), "none.toml"),
    (("run", "in.csv"), "in.csv"),
    (("run", "folder"), "folder: Is a directory"),
    (("run", "syntax.toml"), "syntax.toml: "),
    (("run", "table.toml"), "has the unknown name 'job' (did you mean 'jobs'?)"),
    (("run", "top.toml"), "has the unknown name 'push'; it may have: jobs"),
    (("run", "name.toml"), "jobs.people has the unknown name 'fil' (did you mean 'file'?)"),
    (("run", "flat.toml"), "jobs.people is not a table; write [jobs.people] above its options"),
    (("run", "type.toml"), "jobs.people: "),
    (("run", "none.toml"), "has no job; write one as [jobs.NAME]"),
    (("run", "file.toml"), "file.toml: people: none.csv does not exist"),
    (("run", "other.toml"), "other.toml: tags: cannot tell the format of in.txt"),
    (("run", "header.toml"), "header.toml: tags: people.csv has no column name"),
    (("run", "header.toml", "--dry-run"), "header.toml: tags: people.csv has no column name"),
    (("run", "empty.csv"), "has no job; write one as [jobs.NAME]"),
    (("run", "vendor.toml"), "vendor.toml: people: there is no vendor 'intuch'"),
    (("run", "query.toml"), "query.toml: people: --query order"),
    (("run", "number.toml"), "number.toml: events: --query account_id: must be str, not 42"),
    ((*PUSH, "/"), "/ is a directory"),
    (("simulate", "--image", "none/x.png"), "none/x.png is in a directory"),
    # Shared limits and tokens.
    (("worker",), "ASYNCCLIENTS_DATABASE_URL"),
    (("run", "jobs.toml", "--engine", "dbos"), "ASYNCCLIENTS_DATABASE_URL"),
    (("run", "jobs.toml", "--database-url", "sqlite:///jobs"), "--engine dbos"),
    (("worker", "--database-url", "postgresql://host/jobs"), "ASYNCCLIENTS_LIMITS"),
    ((*PUSH, "people.csv", "--limits", "none/limits"), "none/limits is in a directory"),
    ((*PULL, *TO, "--limits", "http://host"), "redis://"),
    ((*PULL, *TO, "--limits", "localhost:6379"), "Write redis://localhost:6379"),
    ((*PULL, *TO, "--limits", "folder"), "the limit store folder is a directory"),
]
FILES = {
    "in.csv": "name\nx\n",
    "people.csv": "email\na@example.com\n",
    "in.txt": "email\na@example.com\n",
    "empty.csv": "",
    "semicolons.csv": "email;name\na@example.com;x\n",
    "mail.csv": "mail\na@example.com\n",
    "syntax.toml": "[jobs.people\npush = ",
    "table.toml": "[job.people]\npush = 'intouch.contacts'\nfile = 'people.csv'\n",
    "top.toml": "push = 'intouch.contacts'\nfile = 'people.csv'\n",
    "name.toml": "[jobs.people]\npush = 'intouch.contacts'\nfil = 'people.csv'\n",
    "flat.toml": "[jobs]\npeople = 'intouch.contacts'\n",
    "type.toml": "[jobs.people]\npush = 'intouch.contacts'\nfile = 'in.csv'\nconcurrency = 'x'\n",
    "none.toml": "[jobs]\n",
    "file.toml": "[jobs.people]\npush = 'intouch.contacts'\nfile = 'none.csv'\n",
    "other.toml": "[jobs.people]\npush = 'intouch.contacts'\nfile = 'people.csv'\n"
    "[jobs.tags]\nsync = 'intouch.tags'\nfile = 'in.txt'\n",
    "header.toml": "[jobs.people]\npush = 'intouch.contacts'\nfile = 'people.csv'\n"
    "[jobs.tags]\npush = 'intouch.tags'\nfile = 'people.csv'\nstate = 'tags.state'\n",
    "jobs.toml": "[jobs.people]\npush = 'intouch.contacts'\nfile = 'people.csv'\n",
    "vendor.toml": "[jobs.people]\npush = 'intuch.contacts'\nfile = 'people.csv'\n",
    "number.toml": "[jobs.events]\npull = 'totango.events'\nto = 'x.csv'\nquery.account_id = 42\n",
    "query.toml": "[jobs.people]\npull = 'intouch.contacts'\nto = 'x.csv'\nquery.order = 'up'\n",
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction] - autouse
    """A folder with *FILES*, no credentials and no shared stores."""
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).write_text(text)
    Path("folder").mkdir()
    ours = ("INTOUCH_", "TOTANGO_", "INTEMPT_", "EMMA_", "DIGITAL_", "ASYNCCLIENTS_")
    for name in [name for name in os.environ if name.startswith(ours)]:
        monkeypatch.delenv(name)


@pytest.fixture
def vendors(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The address of all vendors, which accepts nothing: a connection would stay in its queue."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        for vendor in CLIENTS:
            url = f"http://127.0.0.1:{server.getsockname()[1]}/"
            monkeypatch.setenv(f"{vendor.upper()}_BASE_URL", url)
        yield server


def content() -> dict[str, str]:
    """The files of the current folder."""
    return {path.name: path.read_text() for path in Path().iterdir() if path.is_file()}


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=" ".join)
def test_mistake_is_one_sentence_and_code_2(
    vendors: socket.socket,
    arguments: tuple[str, ...],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A mistake is named on one line before credentials are required; it sends and leaves nothing."""
    assert run(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert words in printed.err
    assert len(printed.err.splitlines()) == 1, printed.err
    assert not set("╭╰│─") & set(printed.err)
    assert "_API_KEY" not in printed.err
    assert content() == FILES
    with pytest.raises(BlockingIOError):
        vendors.accept()


def commands(group: App, *chain: str) -> Iterator[tuple[tuple[str, ...], App]]:
    """The commands of *group* and of the groups in it, by the words that call them."""
    for name in group:
        if not name.startswith("-"):
            if any(not inner.startswith("-") for inner in group[name]):
                yield from commands(group[name], *chain, name)
            else:
                yield (*chain, name), group[name]


OPTIONS = [
    ((*words, option), argument.required)
    for words, command in commands(app)
    for argument in command.assemble_argument_collection()
    for option in argument.names
    if option.startswith("--") and argument.token_count()[0]
]


@pytest.mark.parametrize(("arguments", "is_required"), OPTIONS, ids=str)
def test_option_without_value_shows_a_correct_form(
    arguments: tuple[str, ...], is_required: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each option of each command that takes a value names a correct one if it is left out."""
    assert run(arguments) == 2
    printed = capsys.readouterr()
    form = f"asyncclients {arguments[0]} " if is_required else f"{arguments[-1]} "
    assert f"{arguments[-1]} requires an argument. Write it as in: {form}" in printed.err
    assert len(printed.err.splitlines()) == 1


@pytest.mark.parametrize("words", [words for words, _ in commands(app)], ids=" ".join)
def test_superfluous_argument_shows_a_correct_form(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each command with too many arguments lists those it takes, and shows a correct form."""
    needed = ("--to", "x.csv") if words == ("pull",) else ()
    assert run((*words, "a", "b", "c", *needed)) == 2
    printed = capsys.readouterr().err
    assert f"{' '.join(words)} takes only " in printed
    assert "'c' " in printed
    assert " superfluous. Write it as in: " in printed
    assert len(printed.splitlines()) == 1


def test_option_without_value_is_tried_for_all_commands() -> None:
    """Every command with such an option is among those that are tried."""
    tried = {arguments[:-1] for arguments, _ in OPTIONS}
    without = {("demo",), ("status",)}
    assert tried | without == {words for words, _ in commands(app)}


@pytest.mark.parametrize(
    "arguments",
    [("push", "intouch.contacts", "people.csv"), (*PULL, *TO), ("run", "jobs.toml")],
)
def test_missing_credential_is_reported_last(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """A command without mistakes and without credentials names the variable, with exit code 2."""
    assert run(arguments) == 2
    assert "INTOUCH_API_KEY is not set" in "".join(capsys.readouterr())
    assert content() == FILES


def test_run_names_the_missing_credentials_of_all_jobs_first(
    vendors: socket.socket, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No job starts while a credential of another one is missing; each is named once."""
    monkeypatch.setenv("INTOUCH_API_KEY", "key-4711")
    jobs = "".join(
        f"[jobs.{name}]\npull = '{target}'\nto = '{name}.csv'\n"
        for name, target in {
            "contacts": "intouch.contacts",
            "types": "totango.touchpoint_types",
            "tags": "totango.touchpoint_tags",
            "templates": "digital_onboarding.templates",
        }.items()
    )
    Path("jobs.toml").write_text(jobs)
    before = content()
    assert run(("run", "jobs.toml")) == 2
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1
    names = [
        "TOTANGO_APP_TOKEN",
        "DIGITAL_ONBOARDING_CLIENT_ID",
        "DIGITAL_ONBOARDING_CLIENT_SECRET",
    ]
    for name in names:
        assert printed.err.partition(". ")[0].count(name) == 1, printed.err
    assert content() == before
    with pytest.raises(BlockingIOError):
        vendors.accept()


def test_run_finds_another_encoding_in_any_file_first(
    vendors: socket.socket, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No job starts while the file of another one is not UTF-8, wherever in the file that shows."""
    monkeypatch.setenv("INTOUCH_API_KEY", "key-4711")
    rows = b"".join(b"p%d@example.com,Ann\n" % n for n in range(1000))
    Path("late.csv").write_bytes(b"email,first_name\n" + rows + b"x@example.com,Ren\xe9\n")
    job = "[jobs.late]\n{} = 'intouch.contacts'\nfile = 'late.csv'\n"
    for kind in ("push", "sync"):
        Path("jobs.toml").write_text(FILES["jobs.toml"] + job.format(kind))
        assert run(("run", "jobs.toml")) == 2
        printed = capsys.readouterr()
        assert "late.csv, line 1002: is not UTF-8 (byte 0xE9)" in printed.err
        assert len(printed.err.splitlines()) == 1
    assert run((*PUSH, "late.csv")) == 2
    assert run((*PUSH, "late.csv", "--dry-run")) == 2
    with pytest.raises(BlockingIOError):
        vendors.accept()


@pytest.mark.parametrize("arguments", [(*PUSH, "people.csv"), (*PULL, *TO)])
def test_directory_without_write_permission_is_named_before_credentials(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state or result that cannot be written is one sentence with exit code 2."""

    def access(path: object, mode: int) -> bool:
        return mode != os.W_OK

    monkeypatch.setattr(os, "access", access)
    assert run(arguments) == 2
    printed = capsys.readouterr()
    assert "is in a directory that cannot be written to" in printed.err
    assert len(printed.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("INTOUCH_BASE_URL", "http://example.com"),
        ("INTOUCH_BASE_URL", "example.com"),
        ("INTOUCH_BASE_URL", "https://user:pass@example.com"),
        ("INTOUCH_API_KEY", "key\n"),
        ("INTOUCH_API_KEY", " "),
    ],
)
def test_bad_variable_is_named_without_its_value(
    name: str, value: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that cannot work is one sentence with exit code 2."""
    monkeypatch.setenv("INTOUCH_API_KEY", "key-4711")
    monkeypatch.setenv(name, value)
    assert run((*PUSH, "people.csv")) == 2
    printed = capsys.readouterr()
    assert name in printed.err
    assert len(printed.err.splitlines()) == 1
    assert "pass" not in printed.err
    assert content() == FILES


@pytest.mark.parametrize(
    ("missing", "extra", "arguments"),
    [
        ("pyarrow", "parquet", ("push", "intouch.contacts", "in.parquet")),
        ("pyarrow", "parquet", ("pull", "intouch.contacts", "--to", "out.parquet")),
        ("redis", "redis", (*PULL, *TO, "--limits", "redis://host")),
        ("dbos", "dbos", ("worker", "--database-url", "sqlite:///jobs")),
        ("dbos", "dbos", ("run", "jobs.toml", "--engine", "dbos", "--database-url", "sqlite:///j")),
    ],
)
def test_missing_extra_is_named_before_credentials(
    missing: str, extra: str, arguments: tuple[str, ...]
) -> None:
    """A missing extra is reported in one sentence with the command to install it, exit code 2."""
    Path("in.parquet").write_bytes(b"PAR1")
    program = f"import sys; sys.modules['{missing}'] = None\nfrom asyncclients.cli import run\n"
    command = [sys.executable, "-c", f"{program}sys.exit(run({arguments!r}))"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, ""), ended
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert f"asyncclients[{extra}]" in ended.stderr


# --- Values -----------------------------------------------------------------------


async def ended(environ: dict[str, str], *arguments: str) -> tuple[int | None, str]:
    process = await start(*arguments, environ={**os.environ, **environ})
    out, err = await process.communicate()
    return process.returncode, (out + err).decode()


async def test_with_values_reach_the_request(sandbox: Sandbox) -> None:
    """`--with` binds arguments before and after the row's; digits of a text keep their zeros."""
    program = "11b01b44-ba2e-11e5-875c-0a5a4bfb150c"
    bound = ("--with", f"program_uuid={program}")
    code, said = await ended(sandbox.environ, *RECORDS, "in.csv", *bound)
    assert code == 0, said
    (record,) = sandbox.state("intouch").records[program].values()
    assert record["data"] == {"name": "x"}
    (document_id,) = sandbox.state("intouch").records[program]
    more = ("--with", f"document_id={document_id}", "--with", 'meta={"code": "007"}')
    update = ("push", "intouch.external_programs.update_record", "in.csv", "--state", "other")
    code, said = await ended(sandbox.environ, *update, *bound, *more)
    assert code == 0, said
    assert sandbox.requests("intouch")[-1].body == b'{"data":{"name":"x"},"meta":{"code":"007"}}'
    Path("ids.csv").write_text("note_id\n007\n")
    delete = ("push", "totango.touchpoints.delete", "ids.csv", "--with", "account_id=0000")
    await ended(sandbox.environ, *delete)
    assert dict(sandbox.requests("totango")[0].query) == {"account_id": "0000"}


@pytest.mark.parametrize("number", ["0123", "000000000", "12345678901234567890"])
async def test_query_values_keep_their_digits(sandbox: Sandbox, number: str) -> None:
    """A text argument of a list is sent exactly as written."""
    code, said = await ended(sandbox.environ, *PULL, *TO, "--query", f"search={number}")
    assert code == 0, said
    assert dict(sandbox.requests("intouch")[0].query)["search"] == number


async def test_rows_become_the_argument_that_is_left(sandbox: Sandbox) -> None:
    """Each kind of operation takes its rows: structs, lists of them, and plain objects."""
    Path("people.csv").write_text("email\na@example.com\nb@example.com\n")
    onboarding, intempt = sandbox.state("digital_onboarding"), sandbox.state("intempt")
    template = f"template_id={onboarding.templates[0]['id']}"
    collection = f"collection_id={intempt.add_collection('people', 'email').id}"
    for number, command in enumerate(
        (
            ("push", "digital_onboarding.contacts"),
            ("push", "digital_onboarding.journeys", "--with", template, "--with", "name=007"),
            ("push", "intempt.collections", "--with", collection),
        )
    ):
        arguments = (*command, "people.csv", "--state", str(number))
        code, said = await ended(sandbox.environ, *arguments)
        assert code == 0, said
    assert len(onboarding.contacts) == 2
    assert [journey["name"] for journey in onboarding.journeys.values()] == ["007", "007"]
    assert len(intempt.collections["people"].items) == 2


async def test_ids_of_numbers_come_from_their_column(sandbox: Sandbox) -> None:
    """An operation that takes an integer id reads it from the column of that name."""
    state = sandbox.state("emma")
    Path("types.csv").write_text("type_name\nvisit\ncall\n")
    create = ("push", "emma.touchpoint_types", "types.csv", "--with", "display_name=A name")
    code, said = await ended(sandbox.environ, *create)
    assert code == 0, said
    assert {row["display_name"] for row in state.types.values()} == {"A name"}
    Path("ids.csv").write_text("id\n" + "".join(f"{number}\n" for number in state.types))
    code, said = await ended(sandbox.environ, "push", "emma.touchpoint_types.delete", "ids.csv")
    assert code == 0, said
    assert state.types == {}


async def test_arguments_in_a_file_have_their_own_types(sandbox: Sandbox) -> None:
    """In a TOML file, a number or an object may have its own type or be text."""
    program = "11b01b44-ba2e-11e5-875c-0a5a4bfb150c"
    Path("all.toml").write_text(
        f"""
        [jobs.people]
        pull = "intouch.contacts"
        to = "people.jsonl"
        query = {{ limit = 10, search = "0042" }}
        [jobs.record]
        push = "intouch.external_programs.update_record"
        file = "in.csv"
        with = {{ program_uuid = "{program}", document_id = "d", meta = {{ a = 1 }} }}
        """
    )
    code, said = await ended(sandbox.environ, "run", "all.toml")
    assert code == 3, said  # there is no such document
    requests = {request.method: request for request in sandbox.requests("intouch")}
    assert {"limit": "10", "search": "0042"}.items() <= dict(requests["GET"].query).items()
    assert requests["PUT"].body == b'{"data":{"name":"x"},"meta":{"a":1}}'


# --- The environment of a shell -----------------------------------------------------


async def test_shared_addresses_come_from_the_environment(sandbox: Sandbox) -> None:
    """`ASYNCCLIENTS_LIMITS` is used by a push like `--limits`."""
    environ = {**sandbox.environ, "ASYNCCLIENTS_LIMITS": "limits.db"}
    code, said = await ended(environ, "push", "intouch.contacts", "people.csv")
    assert code == 0, said
    assert Path("limits.db").exists()


async def test_output_that_nobody_reads_fails_no_job(sandbox: Sandbox) -> None:
    """A push whose output goes to a closed pipe is carried out and ends with its own code."""
    reader, writer = os.pipe()
    os.close(reader)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "asyncclients", "push", "intouch.contacts", "people.csv"),
        env={**os.environ, **sandbox.environ},
        stdout=writer,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(writer)
    _, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert len(sandbox.state("intouch").contacts) == 1


async def test_file_name_may_be_any_bytes(sandbox: Sandbox) -> None:
    """A push and a pull with names that are not UTF-8 work, their reports and status included."""
    push, to = os.fsdecode(b"caf\xe9.csv"), os.fsdecode(b"caf\xe9.jsonl")
    Path(push).write_text("email\na@example.com\nnobody\n")
    code, said = await ended(sandbox.environ, "push", "intouch.contacts", push, "--json")
    assert code == 3, said
    code, said = await ended(sandbox.environ, "status", f"{push}.state", "--json")
    assert code == 3, said
    code, said = await ended(sandbox.environ, *PULL, "--to", to)
    assert code == 0, said
    assert Path(to).exists()
    assert (await ended(sandbox.environ, "status", f"{to}.state"))[0] == 0


@pytest.mark.parametrize("arguments", [("--help",), ("doctor", "--no-connect")])
async def test_closed_pipe_is_no_traceback(arguments: tuple[str, ...]) -> None:
    """A command whose reader has gone ends quietly."""
    reader, writer = os.pipe()
    os.close(reader)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "asyncclients", *arguments),
        stdout=writer,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(writer)
    _, err = await process.communicate()
    assert (process.returncode, err) == (1, b"")


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ({"pull": "intouch.tags", "to": "t.csv", "map": {"a": "b"}}, "map"),
        ({"pull": "intouch.tags", "to": "t.csv", "dry_run": True}, "dry_run"),
        ({"pull": "intouch.tags", "to": "t.csv", "limit": 3}, "limit"),
        ({"push": "intouch.tags", "file": "t.csv", "refresh": True}, "refresh"),
        ({"push": "intouch.tags", "file": "t.csv", "adopt": True}, "adopt"),
        ({"sync": "intouch.tags", "file": "t.csv", "with": {"a": 1}}, "with"),
    ],
)
def test_job_with_an_option_of_another_kind_is_refused(table: dict[str, Any], name: str) -> None:
    """An option that a job would ignore is named, as it is written in a file of jobs."""
    with pytest.raises(ValueError, match=f"jobs.tags has the unknown name '{name}'"):
        job_of("tags", table)


@pytest.mark.parametrize("option", ["share", "limit"])
@pytest.mark.parametrize("text", ["null", "NULL"])
def test_limit_of_a_job_is_not_lifted_by_a_text(option: str, text: str) -> None:
    """The text "null" is no number: it does not stand for a job without the limit."""
    table = {"push": "intouch.tags", "file": "t.csv", option: text}
    with pytest.raises(ValueError, match=f"jobs.tags: `{option}` must not be '{text}'"):
        job_of("tags", table)
    job = job_of("tags", {"pull": "intouch.tags", "to": "t.csv", "key": text})
    assert job.options == PullOptions(key=text)


def test_numbers_and_switches_of_a_job_may_be_in_quotes() -> None:
    """A number or a truth value that is written as text is read; text stays text."""
    table = {"push": "intouch.tags", "file": "t.csv", "share": "0.6", "limit": "3"}
    job = job_of("tags", {**table, "dry_run": "True", "set": {"code": "007"}})
    assert job.options == PushOptions(share=0.6, limit=3, dry_run=True, set={"code": "007"})
    pull = job_of("tags", {"pull": "intouch.tags", "to": "t.csv", "key": "1", "state": "2"})
    assert pull.options == PullOptions(key="1", state=Path("2"))


@pytest.mark.parametrize(
    "table",
    [
        {"pull": "intouch.tags", "to": "t.csv", "query": {"page": 2}, "lag": 1.5, "refresh": True},
        {"push": "intouch.tags", "file": "t.csv", "with": {"a": 1}, "state": "s", "limit": 3},
        {"sync": "intouch.tags", "file": "t.csv", "map": {"a": "b"}, "on_missing": "delete"},
    ],
)
def test_job_is_the_same_after_a_round_trip(table: dict[str, Any]) -> None:
    """A worker on another machine reads the job that `run` wrote into the database."""
    job = job_of("tags", table)
    assert job_of("tags", json.loads(json.dumps(table_of(job)))) == job
    assert table.items() <= table_of(job).items()
