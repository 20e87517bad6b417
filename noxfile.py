"""Every check of the project.

`nox` runs the tests, `nox -s check` everything that a change must pass, `nox -s sweep` the long tests.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["tests"]

EXTRAS = ".[cli,parquet,redis,otel,dbos,dlt,plot]"
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
PARALLEL = ("-n", "auto", "--dist", "worksteal")
"""Options of pytest that use all cores; tests/conftest.py says how many workers "auto" is."""
PORTABLE = ("core", "ratelimit", "vendors", "contract", "backfill", "cli", "sandbox")
"""Folders of tests that need no server of POSIX systems."""
CHECKOUT = ("-m", "checkout", "tests/docs")
"""Arguments of pytest to run commands of pages in copies of the checkout."""
EACH = ["base", *nox.project.load_toml()["project"]["optional-dependencies"]]


def _groups(session: nox.Session, *names: str) -> None:
    session.install("-q", *nox.project.dependency_groups(nox.project.load_toml(), *names))


@nox.session(python=False)
def check(session: nox.Session) -> None:
    """Everything that a change must pass."""
    for name in ("lint", "typing", "coverage", "docs", "benchmarks", "package"):
        session.notify(name)


@nox.session
def tests(session: nox.Session) -> None:
    """The default suite, on the installed wheel."""
    _groups(session, "test")
    session.install("-q", EXTRAS)
    session.run("pytest", *PARALLEL, *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """The default suite, on the installed wheel, with branch coverage and its threshold."""
    _groups(session, "test")
    session.install("-q", EXTRAS)
    # The workers are measured, too: see [tool.coverage.run].
    session.run("coverage", "erase")
    session.run("coverage", "run", f"{session.bin}/pytest", *PARALLEL, *session.posargs)
    session.run("coverage", "combine", "-q")
    session.run("coverage", "report", "--skip-covered", "--fail-under=90")


@nox.session(python=PYTHONS)
def versions(session: nox.Session) -> None:
    """The default suite on each interpreter that is installed; others are skipped."""
    _groups(session, "test")
    session.install("-q", EXTRAS)
    session.run("pytest", *PARALLEL, *session.posargs)


@nox.session
def windows_like(session: nox.Session) -> None:
    """The tests of files, locks and states on Linux with what only POSIX has removed.

    Those that run on Windows must be collected without it, too.
    """
    _groups(session, "test")
    session.install("-q", "-e", EXTRAS)
    command = ("python", "-m", "pytest", "-p", "tests.support.windows_like")
    session.run(*command, "--collect-only", "-qq", *(f"tests/{room}" for room in PORTABLE))
    backfill = ("state_files", "target_files", "journal", "push", "pull", "refresh", "sync")
    # Pipes; hard links, which only the lock inside of a file finds; files deleted while open.
    session.run(
        *(*command, "-k", "not (fifo or hard or removed_limit_file or replaced_at_work)"),
        *(f"tests/backfill/test_{name}.py" for name in backfill),
        *("tests/stores/test_files.py", "tests/stores/test_sqlite.py", *session.posargs),
    )


@nox.session
def portable(session: nox.Session) -> None:
    """The tests that need no server of POSIX systems, for Windows and macOS."""
    _groups(session, "test")
    session.install("-q", EXTRAS)
    rooms = [f"tests/{room}" for room in PORTABLE]
    if sys.platform == "win32":
        rooms += ["-k", "not (fifo or hard)"]  # as in the session above
    session.run("pytest", *PARALLEL, "--timeout=300", *rooms, *session.posargs)


@nox.session
def sweep(session: nox.Session) -> None:
    """The long sweeps: crash points, seeds, memory."""
    _groups(session, "test")
    session.install("-q", EXTRAS)
    session.run("pytest", *PARALLEL, "-m", "sweep", "--timeout=1800", *session.posargs)


@nox.session
def loops(session: nox.Session) -> None:
    """The suites of calls, quotas and backfills on asyncio, its debug mode and uvloop."""
    _groups(session, "test")
    session.install("-q", EXTRAS)
    rooms = ("backfill", "contract", "core", "ratelimit", "stores", "test_middleware.py")
    session.run(
        "pytest", *PARALLEL, "--every-loop", *(f"tests/{room}" for room in rooms), *session.posargs
    )


@nox.session
def lint(session: nox.Session) -> None:
    """ruff, with the rule set that pyproject.toml explains, and zizmor for the workflows."""
    _groups(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("zizmor", "--offline", "--quiet", ".github")


@nox.session
def typing(session: nox.Session) -> None:
    """Both strict checkers, mypy and pyright, on package and tests."""
    _groups(session, "typing", "test")
    session.install("-q", "-e", EXTRAS)
    session.run("mypy")
    python = session.virtualenv.location + "/bin/python"
    session.run("pyright", "--pythonpath", python)
    # The benchmarks, less strictly: no test would find a name that has changed.
    session.run("pyright", "-p", "benchmarks", "--pythonpath", python)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, warnings as errors, with recordings of commands that are run for it.

    The default suite runs the commands of its pages; here those follow that install something.
    """
    _groups(session, "docs", "test")
    session.install("-q", EXTRAS)
    session.run("sphinx-build", "-q", "-W", "--keep-going", "docs", "docs/_build/html")
    for script in ("record_terminal.py", "record_monitor.py"):
        session.run("python", f"docs/{script}", "--to", "docs/_build/html/_images")
    session.run("pytest", *PARALLEL, *CHECKOUT, "-k", "not benchmarks")


@nox.session
def benchmarks(session: nox.Session) -> None:
    """The commands of the benchmarks' pages in their smallest form, and the tables of the pages."""
    _groups(session, "benchmarks", "test")
    session.install("-q", EXTRAS)
    session.run("pytest", *CHECKOUT, "-k", "benchmarks")  # one at a time: they measure
    session.run("python", "benchmarks/page.py", "--check")


@nox.session
@nox.parametrize("extra", EACH, ids=EACH)
def extras(session: nox.Session, extra: str) -> None:
    """The wheel with one extra: it works, and its errors name the missing extras."""
    session.install("-q", "." if extra == "base" else f".[{extra}]")
    # -P: the checkout must not stand before the installed wheel.
    session.run("python", "-P", "tests/extras.py", extra)


@nox.session
def lowest(session: nox.Session) -> None:
    """The default suite on the lowest versions that pyproject.toml allows."""
    session.install("-q", "uv")
    # Everything at once: what stands in an environment already is not lowered.
    group = nox.project.dependency_groups(nox.project.load_toml(), "test")
    # Compiled, as by pip: the tests start many processes.
    options = ("--resolution", "lowest-direct", "--compile-bytecode")
    session.run("uv", "pip", "install", "-q", *options, EXTRAS, *group)
    session.run("pytest", "-q", *PARALLEL, *session.posargs)


@nox.session
def prereleases(session: nox.Session) -> None:
    """The default suite on pre-releases of what the code is closest to."""
    _groups(session, "test")
    session.install("-q", EXTRAS)
    session.install("-q", "--upgrade", "--pre", "aiohttp<4", "msgspec", "redis")
    session.run("pytest", "-q", *PARALLEL, *session.posargs)


@nox.session
def audit(session: nox.Session) -> None:
    """Known vulnerabilities in what users install; needs the network.

    Strict: a package that could not be looked up fails the session, so that no answer from
    the index is not taken for a clean bill.
    """
    session.install("-q", EXTRAS)
    installed = session.run("pip", "freeze", "--exclude", "asyncclients", silent=True)
    listed = session.create_tmp() + "/installed.txt"
    Path(listed).write_text(str(installed))
    session.install("-q", "pip-audit")
    session.run("pip-audit", "--strict", "--no-deps", "--disable-pip", "-r", listed)


@nox.session
def package(session: nox.Session) -> None:
    """Build twice, and check that both are the same and fit for an index."""
    session.install("-q", "build", "twine", "check-wheel-contents")
    first, second = (Path(session.create_tmp()) / name for name in ("first", "second"))
    for out in (first, second):
        shutil.rmtree(out, ignore_errors=True)
        session.run("python", "-m", "build", "--outdir", str(out), ".")
    for one, other in zip(_built(first, "*"), _built(second, "*"), strict=True):
        if Path(one).read_bytes() != Path(other).read_bytes():
            session.error(f"{one} and {other} differ: the build is not reproducible")
    session.run("twine", "check", "--strict", *_built(first, "*"))
    session.run("check-wheel-contents", *_built(first, "*.whl"))
    session.run("python", ".github/check_release.py")


def _built(folder: Path, pattern: str) -> list[str]:
    return sorted(str(path) for path in folder.glob(pattern))
