"""The command line. The module of a command is imported when the command is called."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from cyclopts import App, CycloptsError, MissingArgumentError, Parameter, UnusedCliTokensError
from rich.console import Console

from asyncclients import __version__
from asyncclients.errors import AsyncClientsError, ConfigurationError

DONE, FAILED, USAGE, PARTLY, INTERRUPTED = 0, 1, 2, 3, 130

_EXIT_CODES = """\
Exit codes:
0 done
1 failed while running, or the state is in use
2 usage error, or unusable input found before anything was sent
3 done, with failed or unknown rows
130 interrupted, and the state is saved"""


def _shown_default(value: object) -> str | None:
    """Return the default that the help shows; None for that of a switch or of an empty option."""
    return None if value is False or value in (None, "", {}) else str(value)


app = App(
    name="asyncclients",
    version=__version__,
    help="Move data through rate-limited vendor APIs, within every limit.",
    help_epilogue=_EXIT_CODES,
    help_format="plaintext",  # the default, markdown, imports a parser
    default_parameter=Parameter(show_default=_shown_default),
)
_COMMANDS = {
    "demo": (
        "demo:demo",
        "Watch backfills at their vendors' limits, one killed and resumed; needs no account.",
    ),
    "pull": ("backfill:pull", "Read a vendor's list into a file, or resume doing so."),
    "push": ("backfill:push", "Send each row of a file to a vendor, or resume doing so."),
    "sync": ("backfill:sync", "Make a vendor's items agree with a file, or resume doing so."),
    "status": (
        "backfill:status",
        "Show the progress and the unknown rows of a pull, push or sync.",
    ),
    "run": ("backfill:run", "Run several pulls, pushes and syncs concurrently, from a TOML file."),
    "worker": ("worker:worker", "Run the jobs in a database that many machines share."),
    "simulate": ("simulate:simulate", "Test a quota against a model of a server in virtual time."),
    "sandbox": ("sandbox:sandbox", "Start the mock vendors and print the variables for clients."),
    "limits": ("limits:app", "Pause a vendor, or change its limit, for all processes."),
    "doctor": (
        "doctor:doctor",
        "Check versions, CA store, environment, vendor addresses and limit store.",
    ),
}
_EXAMPLES = {
    "pull": "pull intouch.contacts --to contacts.csv",
    "push": "push intouch.contacts people.csv",
    "status": "status people.csv.state",
    "run": "run jobs.toml",
    "sync": "sync intouch.contacts people.csv",
    "limits pause": "limits pause intouch --seconds 600",
    "limits resume": "limits resume intouch",
    "limits set": "limits set intouch --quota 2/1 --quota 100/60",
    "limits show": "limits show --limits limits.db",
    "demo": "demo --fast",
    "doctor": "doctor --limits limits.db",
    "sandbox": "sandbox --port 8000",
    "simulate": "simulate --quota 2/1",
    "worker": "worker --database-url postgresql://HOST/jobs --limits redis://HOST",
}
"""A correct form of each command."""
_VALUES = {
    "--changes": "changes.jsonl",
    "--database-url": "postgresql://HOST/jobs",
    "--image": "arrivals.png",
    "--interactive": "0.5",
    "--key": "email",
    "--limit": "100",
    "--limits": "limits.db",
    "--map": "mail=email",
    "--port": "8000",
    "--query": "search=ann",
    "--quota": "2/1",
    "--seed": "1",
    "--set": "language=en",
    "--share": "0.6",
    "--since": "updated_at",
    "--state": "people.state",
    "--with": "program_uuid=4711",
}
"""A correct value of each option that takes one and has no default."""
for _name, (_where, _help) in _COMMANDS.items():
    app.command(f"asyncclients.cli.{_where}", name=_name, help=_help)
app.register_install_completion_command(name="--install-completion")  # pyright: ignore[reportUnknownMemberType]


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; errors are printed, not raised."""
    try:
        with _printing_warnings():
            command, bound, _ = app.parse_args(
                list(arguments), exit_on_error=False, print_error=False
            )
            result: Any = command(*bound.args, **bound.kwargs)
            if inspect.iscoroutine(result):
                import asyncio  # `--help` does not need it

                result = asyncio.run(result)
    except KeyboardInterrupt:
        return INTERRUPTED
    except CycloptsError as error:
        text = _surplus(error) if isinstance(error, UnusedCliTokensError) else str(error)
        form = _correct_form(error)
        _print_error(f"{text} Write it as in: {form}" if form else text)
        return USAGE
    except (ConfigurationError, ValueError) as error:
        _print_error(str(error))
        return USAGE
    except BrokenPipeError:  # `asyncclients ... | head`: the reader has exited
        return FAILED
    except (AsyncClientsError, OSError) as error:
        _print_error(f"{type(error).__name__}: {error}")
        return FAILED
    return result if isinstance(result, int) else DONE


def _correct_form(error: CycloptsError) -> str:
    """Return how to write what *error* is about; "" if that is not known."""
    command = " ".join(error.command_chain or ())
    example = f"asyncclients {_EXAMPLES[command]}" if command in _EXAMPLES else ""
    if isinstance(error, UnusedCliTokensError):
        return example
    if error.argument is None:
        return ""
    if isinstance(error, MissingArgumentError) and error.argument.required:
        return example
    name, default = error.argument.name, error.argument.field_info.default
    value = _VALUES.get(name, "" if default in (None, False) else default)
    return f"{name} {value}" if value != "" else ""


def _surplus(error: UnusedCliTokensError) -> str:
    """Return which arguments a command takes, and which were given besides them."""
    chain, command = error.command_chain or (), app
    for word in chain:
        command = command[word]
    takes = [a.name for a in command.assemble_argument_collection() if a.index is not None]
    surplus = [repr(word) for word in error.unused_tokens or ()]
    verb = "is" if len(surplus) == 1 else "are"
    words = f"{' and '.join(surplus)} {verb} superfluous."
    return f"{' '.join(chain)} takes only {' and '.join(takes) or 'options'}; {words}"


class _Printer(logging.Handler):
    """Prints log records to standard error, above the bars of jobs."""

    def emit(self, record: logging.LogRecord) -> None:
        from asyncclients.cli.output import say  # `--help` does not need it

        say(f"{record.levelname.capitalize()}: {record.getMessage()}", sys.stderr)


@contextmanager
def _printing_warnings() -> Generator[None]:
    """Print the warnings of the library: outages of a store, unused columns, use by others."""
    library, printer = logging.getLogger("asyncclients"), _Printer(logging.WARNING)
    library.addHandler(printer)
    try:
        yield
    finally:
        library.removeHandler(printer)


def _print_error(text: str) -> None:
    """Print *text* to standard error, on one line."""
    errors = Console(stderr=True, soft_wrap=True)
    errors.print(" ".join(text.split()), style="red", markup=False, highlight=False)
