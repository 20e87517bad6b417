"""`python -m asyncclients` and the `asyncclients` command."""

import sys


def main() -> None:
    """Run the command line; needs the `cli` extra."""
    try:
        import cyclopts  # noqa: F401
        import rich  # noqa: F401
    except ImportError:
        sys.exit("The asyncclients command needs an extra: pip install 'asyncclients[cli]'")
    from asyncclients.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
