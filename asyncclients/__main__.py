"""`python -m asyncclients` and the `asyncclients` command."""

import io
import os
import sys
from importlib.util import find_spec

_INTERRUPTED = 130


def main() -> None:
    """Run the command line; needs the `cli` extra."""
    if not all(find_spec(name) for name in ("cyclopts", "rich")):
        sys.exit("The asyncclients command needs an extra: pip install 'asyncclients[cli]'")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A file name may hold bytes that are not text in the terminal's encoding.
            stream.reconfigure(errors="backslashreplace")
    try:
        from asyncclients.cli import run

        code = run(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except BrokenPipeError:
        code = 1
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


if __name__ == "__main__":
    main()
