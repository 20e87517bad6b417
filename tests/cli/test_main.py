"""The command line as a whole: its messages and exit codes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import asyncclients
from asyncclients.cli import run

COMMANDS = (
    "demo",
    "pull",
    "push",
    "status",
    "run",
    "worker",
    "simulate",
    "sandbox",
    "limits",
    "doctor",
)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help`, and no argument at all, list the commands and succeed."""
    for arguments in ([], ["--help"]):
        assert run(arguments) == 0
        printed = capsys.readouterr().out
        assert [name for name in COMMANDS if f" {name} " not in printed] == []


def test_help_lists_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` of the program and of each command explains the exit codes."""
    for arguments in (["--help"], *([command, "--help"] for command in COMMANDS)):
        assert run(arguments) == 0
        _, _, codes = capsys.readouterr().out.partition("Exit codes:\n")
        assert [line.split()[0] for line in codes.splitlines() if line] == [
            "0",
            "1",
            "2",
            "3",
            "130",
        ]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_completion_works_in_bash(tmp_path: Path) -> None:
    """After `--install-completion`, bash completes commands and options."""
    script = """
        "$PYTHON" -m asyncclients --install-completion >&2
        source ~/.local/share/bash-completion/completions/asyncclients
        COMP_WORDS=(asyncclients pu); COMP_CWORD=1; _asyncclients; echo "${COMPREPLY[@]}"
        COMP_WORDS=(asyncclients push --qu); COMP_CWORD=2; _asyncclients; echo "${COMPREPLY[@]}"
    """
    environ = {**os.environ, "HOME": str(tmp_path), "PYTHON": sys.executable, "SHELL": "/bin/bash"}
    done = subprocess.run(
        ["bash", "-c", script], env=environ, check=True, capture_output=True, text=True
    )
    assert done.stdout == "pull push\n--quiet\n", done.stderr


def test_help_comes_at_once() -> None:
    """`--help` waits for nothing that only a command needs: no asyncio, no parser of markdown."""
    code = "import sys; from asyncclients.cli import run; code = run(['--help']);"
    code += "print(code, *sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    succeeded, *modules = done.stderr.split()
    assert succeeded == "0"
    assert {"asyncio", "aiohttp", "markdown_it"}.isdisjoint(modules)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`COMMAND --help` loads the command, shows its usage and only real defaults, and succeeds."""
    assert run([command, "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"asyncclients {command}" in printed
    for nothing in ("False", '""', "", "None"):
        assert f"[default: {nothing}]" not in printed


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` prints the version of the library and nothing else."""
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == asyncclients.__version__


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frobnicate"], 'Unknown command "frobnicate"'),
        (["sandbox", "--frobnicate"], "Unknown option: --frobnicate"),
        (["sandbox", "--port", "many"], 'unable to convert "many" into int'),
        (["sandbox", "--port", "70000"], "Must be <= 65530"),
        (["sandbox", "--port", "-1"], "Must be >= 0"),
        (["demo", "--slow"], "Unknown option: --slow"),
        (["doctor", "now"], "doctor takes only options; 'now' is superfluous"),
        (["pull"], "requires an argument"),
    ],
)
def test_wrong_usage_is_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unknown commands and options, and values that cannot be: exit code 2, on stderr alone."""
    assert run(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in " ".join(printed.err.replace("│", " ").split())


def test_missing_variable_is_2_and_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing variable is named before anything is sent, with exit code 2."""
    monkeypatch.delenv("INTOUCH_API_KEY", raising=False)
    assert run(["pull", "intouch.tags", "--to", "tags.jsonl"]) == 2
    assert "INTOUCH_API_KEY is not set" in capsys.readouterr().err


def test_command_names_its_missing_extra() -> None:
    """The library installs without the command line's packages; the command asks for them."""
    program = (
        "import sys; sys.modules['cyclopts'] = None; from asyncclients.__main__ import main; main()"
    )
    arguments = [sys.executable, "-c", program]
    ran = subprocess.run(arguments, check=False, capture_output=True, text=True)
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert ran.stderr == (
        "The asyncclients command needs an extra: pip install 'asyncclients[cli]'\n"
    )


def test_command_has_help_without_other_extras() -> None:
    """`asyncclients[cli]` alone is enough for the help of every command."""
    others = ("redis", "dbos", "opentelemetry", "pyarrow", "matplotlib")
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({others}))\n"
        "from asyncclients.cli import run\n"
        f"sys.exit(any([run([command, '--help']) for command in {(*COMMANDS, 'worker')}]))"
    )
    arguments = [sys.executable, "-c", program]
    ran = subprocess.run(arguments, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "asyncclients worker" in ran.stdout


@pytest.mark.parametrize(
    ("missing", "limits", "extra"), [("dbos", "limits.db", "dbos"), ("redis", "redis://x", "redis")]
)
def test_worker_names_its_missing_extra(
    missing: str, limits: str, extra: str, tmp_path: Path
) -> None:
    """The engine and the shared store are extras: exit code 2, naming the one to install."""
    program = f"import sys; sys.modules['{missing}'] = None\nfrom asyncclients.cli import run\n"
    where = ["worker", "--database-url", "sqlite:///jobs.db", "--limits", limits]
    arguments = [sys.executable, "-c", program + f"sys.exit(run({where}))"]
    ran = subprocess.run(arguments, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 2, ran.stderr
    assert f"asyncclients[{extra}]" in ran.stderr
