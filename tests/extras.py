"""Check an installation with one extra: `python -P tests/extras.py redis`.

`nox -s extras` runs it in environments with the wheel and one extra each. The features of that
extra must work, and all others must raise an error that names their extra.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from asyncclients import AsyncClientsError, IntouchClient, Quota, SessionPool
from asyncclients.backfill import Report, pull
from asyncclients.backfill.steps import PushTarget
from asyncclients.paging import Page, Paginator
from asyncclients.sandbox import Sandbox
from asyncclients.simulator import draw_image, simulate
from asyncclients.vendors.intouch import NewHierarchy

NEEDS = {
    "cli": "cyclopts",
    "parquet": "pyarrow",
    "redis": "redis",
    "otel": "opentelemetry",
    "dbos": "dbos",
    "dlt": "dlt",
    "plot": "matplotlib",
}
"""The package whose presence shows that an extra is installed."""
NOBODY = "redis://127.0.0.1:1"
TWO = Quota(2, 1.0)


def run(*arguments: str, code: int = 0) -> str:
    """Run the command and return its output; it must exit with *code*."""
    command = [sys.executable, "-m", "asyncclients", *arguments]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    output = ran.stdout + ran.stderr
    assert ran.returncode == code, f"{arguments} exited with {ran.returncode}:\n{output}"
    return output


def complaint(ask: Callable[[], Any]) -> str:
    """Return the message of the error that *ask* raises."""
    try:
        ask()
    except (AsyncClientsError, ImportError) as error:
        return str(error)
    raise AssertionError("no error was raised")


async def pulled(to: Path, **options: Any) -> Report:
    """Pull the sandbox's tags into the file *to*, by a pool with *options*."""
    async with Sandbox({"intouch": (1000, 1.0)}) as sandbox, SessionPool(**options) as pool:
        intouch = IntouchClient.from_env(pool, sandbox.environ)
        for name in ("one", "two", "three"):
            await intouch.tags.create(name)
        return await pull(intouch.tags.list(), to, state=f"{to}.db")


# --- What works without any, and with each ----------------------------------------------


def use_base(folder: Path) -> None:
    """Calls, a backfill and a simulation work."""
    report = asyncio.run(pulled(folder / "tags.jsonl"))
    assert report.done == len((folder / "tags.jsonl").read_text().splitlines()) == 3
    assert len(simulate(TWO, seconds=60.0).accepted_at) > 100


def use_cli(folder: Path) -> None:
    """Every command has a help text; a simulation runs; a missing extra is named in one line."""
    said = run("--help")
    for command in ("demo", "pull", "push", "status", "run", "worker", "sandbox", "doctor"):
        assert f" {command} " in said
        assert f"asyncclients {command}" in run(command, "--help")
    assert "refused" in run("simulate", "--hours", "0.01")
    run("doctor", "--no-connect")
    said = run("simulate", "--hours", "0.01", "--image", str(folder / "run.png"), code=2)
    assert "asyncclients[plot]" in said
    said = run("worker", "--database-url", f"sqlite:///{folder}/jobs.db", code=2)
    assert "asyncclients[dbos]" in said


def use_parquet(folder: Path) -> None:
    """A pull writes one row group that can be read back."""
    from pyarrow import parquet  # type: ignore[import-untyped, unused-ignore]

    assert asyncio.run(pulled(folder / "tags.parquet")).done == 3
    file: Any = parquet.ParquetFile(folder / "tags.parquet")
    assert (file.num_row_groups, file.metadata.num_rows) == (1, 3)


def use_redis(folder: Path) -> None:
    """A wrong address is rejected, an unreachable server is named, and `local` continues."""
    from asyncclients.stores import RedisLimits, RedisTokens

    for store in (RedisLimits, RedisTokens):
        assert "redis://" in complaint(partial(store, "http://127.0.0.1"))
    assert NOBODY in complaint(lambda: _pulled_through(RedisLimits(NOBODY), folder))
    assert _pulled_through(RedisLimits(NOBODY, when_down="local"), folder).done == 3


def _pulled_through(limits: Any, folder: Path) -> Report:
    return asyncio.run(pulled(folder / "shared.jsonl", limits=limits))


def use_otel(folder: Path) -> None:
    """A pool with the listener works with OpenTelemetry's API and without its SDK."""
    from asyncclients.integrations.opentelemetry import OpenTelemetryListener

    report = asyncio.run(pulled(folder / "spans.jsonl", listeners=(OpenTelemetryListener(),)))
    assert report.done == 3


def use_dbos(folder: Path) -> None:
    """A push with an SQLite file works."""
    assert asyncio.run(_pushed(f"sqlite:///{folder}/jobs.db")).done == 2


def use_dlt(folder: Path) -> None:
    """A list becomes a resource, from which dlt extracts rows."""
    import dlt

    from asyncclients.integrations.dlt import resource

    async def page(number: int) -> Page[Any]:
        return Page(items=[{"id": "a"}, {"id": "b"}], number=number, total=2, last=True)

    pipeline = dlt.pipeline("rows", pipelines_dir=str(folder / "pipelines"))
    pipeline.extract(resource(Paginator(page), name="rows"))
    assert pipeline.has_data


async def _pushed(url: str) -> Report:
    from asyncclients.integrations.dbos import Backfills

    async with Sandbox({"intouch": (1000, 1.0)}) as sandbox, SessionPool() as pool:
        intouch = IntouchClient.from_env(pool, sandbox.environ)
        to = PushTarget(target=intouch.hierarchies.create, row_type=NewHierarchy)
        root = sandbox.state("intouch").root_uuid
        rows = [
            {"client_code": code, "name": code, "type": "generic", "parent_uuid": root}
            for code in ("north", "south")
        ]
        async with Backfills(url, lambda _: to) as backfills:
            return await backfills.push("nodes", rows)


def use_plot(folder: Path) -> None:
    """A simulation is drawn as an image."""
    draw_image(simulate(TWO, seconds=60.0), folder / "run.png")
    assert (folder / "run.png").read_bytes().startswith(b"\x89PNG")


# --- Errors of missing extras -------------------------------------------


def _redis() -> None:
    from asyncclients.stores import RedisLimits

    RedisLimits(NOBODY)


def _otel() -> None:
    __import__("asyncclients.integrations.opentelemetry")


def _dbos() -> None:
    __import__("asyncclients.integrations.dbos")


def _dlt() -> None:
    __import__("asyncclients.integrations.dlt")


ASKED: dict[str, Callable[[], Any]] = {
    "cli": lambda: _raise(run(code=1)),
    "parquet": lambda: asyncio.run(pulled(Path("tags.parquet"))),
    "redis": _redis,
    "otel": _otel,
    "dbos": _dbos,
    "dlt": _dlt,
    "plot": lambda: draw_image(simulate(TWO, seconds=10.0), "run.png"),
}


def _raise(said: str) -> None:
    raise ImportError(said)


def main(extra: str) -> None:
    """Check the installation with *extra* only; `base` has none."""
    uses: dict[str, Callable[[Path], None]] = {
        "base": use_base, "cli": use_cli, "parquet": use_parquet, "redis": use_redis,
        "otel": use_otel, "dbos": use_dbos, "dlt": use_dlt,
        "plot": use_plot,
    }  # fmt: skip
    assert NEEDS.keys() | {"base"} == uses.keys()
    there = {name for name, package in NEEDS.items() if find_spec(package)}
    assert there == {extra} - {"base"}, f"with {extra} alone there are {there}"
    with TemporaryDirectory() as folder:
        use_base(Path(folder))
        uses[extra](Path(folder))
    for name in NEEDS.keys() - there:
        said = complaint(ASKED[name])
        assert f"asyncclients[{name}]" in said, f"{name} is missing, and the error is: {said}"
    print(f"{extra} alone: works; {', '.join(sorted(NEEDS.keys() - there))}: say what they need")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
