"""`python -m asyncclients` and the `asyncclients` command."""

import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command line; needs the `cli` extra."""
    if not all(find_spec(name) for name in ("cyclopts", "rich")):
        sys.exit("The asyncclients command needs an extra: pip install 'asyncclients[cli]'")
    from asyncclients.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
