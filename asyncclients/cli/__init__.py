"""The command line: one file per command, each loaded when it is called.

Exit codes: 0 done, 1 failed while running or state in use, 2 usage or unusable
input found before anything was sent, 3 done with failed or unknown rows, 130
interrupted (state saved).
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from typing import Any

from cyclopts import App, CycloptsError
from rich.console import Console

from asyncclients import __version__
from asyncclients.errors import AsyncClientsError, ConfigurationError

DONE, FAILED, USAGE, PARTLY, INTERRUPTED = 0, 1, 2, 3, 130

app = App(
    name="asyncclients",
    version=__version__,
    help="Move data through rate-limited vendor APIs, within every limit.",
    help_format="plaintext",  # markdown, the default, loads a parser of it
)
_COMMANDS = {
    "demo": ("demo:demo", "Run five rate-limited jobs against pretend vendors on this machine."),
    "pull": ("backfill:pull", "Read all of a vendor's list into a file; go on where it stopped."),
    "push": ("backfill:push", "Send each row of a file to a vendor; go on where it stopped."),
    "status": ("backfill:status", "Say how far a pull or push is, and what is in doubt."),
    "run": ("backfill:run", "Run many pulls and pushes side by side, from a TOML file."),
    "worker": ("worker:worker", "Do the jobs in a database that many machines share."),
    "simulate": ("simulate:simulate", "Prove a quota against a server's limiter in virtual time."),
    "sandbox": (
        "sandbox:sandbox",
        "Start the pretend vendors and print what makes clients use them.",
    ),
    "doctor": (
        "doctor:doctor",
        "Check versions, CA store, environment and the vendors' addresses.",
    ),
}
for _name, (_where, _help) in _COMMANDS.items():
    app.command(f"asyncclients.cli.{_where}", name=_name, help=_help)
app.register_install_completion_command(name="--install-completion")  # pyright: ignore[reportUnknownMemberType]


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; errors are printed, not raised."""
    try:
        result: Any = _call(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    except (CycloptsError, ConfigurationError, ValueError) as error:
        _complain(str(error))
        return USAGE
    except BrokenPipeError:  # `asyncclients ... | head`: nobody reads the rest
        return FAILED
    except (AsyncClientsError, OSError) as error:
        _complain(f"{type(error).__name__}: {error}")
        return FAILED
    return result if isinstance(result, int) else DONE


def _complain(text: str) -> None:
    """Print *text* to standard error, on one line."""
    errors = Console(stderr=True, soft_wrap=True)
    errors.print(" ".join(text.split()), style="red", markup=False, highlight=False)


def _call(arguments: Sequence[str]) -> Any:
    command, bound, _ = app.parse_args(list(arguments), exit_on_error=False, print_error=False)
    result: Any = command(*bound.args, **bound.kwargs)
    if inspect.iscoroutine(result):
        import asyncio  # here: `--help` has no use for it

        return asyncio.run(result)
    return result


def is_terminal() -> bool:
    """Does somebody watch standard output?"""
    return sys.stdout.isatty()
