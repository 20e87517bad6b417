"""Fixtures of all tests, and checks for leaks after each test."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Generator, Iterator

import hypothesis
import pytest

from asyncclients import SessionPool
from asyncclients.sandbox import Sandbox
from tests.support import event_loops

FAST = (10_000, 1.0)
"""A quota that tests do not exceed."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option to run all tests on all kinds of event loops."""
    parser.addoption("--every-loop", action="store_true", help="run all tests on each event loop")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return the number of workers of `pytest -n auto`.

    Two per core, because tests wait half of their time; at most 16, because each collects all tests.
    """
    return min(2 * (os.cpu_count() or 1), 16)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, event_loops.Factory]:
    """The event loops on which *item* runs; see `tests/support/event_loops.py`."""
    return event_loops.loops_of(item, everywhere=bool(config.getoption("--every-loop")))


def pytest_configure(config: pytest.Config) -> None:
    """Unset the event loop, do not ignore SIGINT, and measure coverage of this process alone.

    Python 3.11 creates a loop on request, which is never closed. A shell starts commands in the
    background with SIGINT ignored, and the processes that tests interrupt would inherit that.
    Coverage reaches the workers of pytest-xdist by a variable; it would slow the commands of tests.
    """
    if hasattr(config, "workerinput"):
        os.environ.pop("COVERAGE_PROCESS_CONFIG", None)
    asyncio.set_event_loop(None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # The time that an example takes says nothing while other workers run.
    hypothesis.settings.register_profile("tests", deadline=None)
    hypothesis.settings.load_profile("tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Reject names of tests with addresses: pytest-xdist needs the same names in each process."""
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(f"{item.nodeid}: give the parameter an id without an address")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape lone surrogates in captured output: pytest-xdist cannot send them to its controller."""
    report = yield
    report.sections = [
        (title, text.encode("utf-8", "backslashreplace").decode())
        for title, text in report.sections
    ]
    return report


class _Complaints(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(self.format(record))


@pytest.fixture(autouse=True)
def _nothing_unhandled() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction] - autouse
    """Fail the test if asyncio logs an error, such as an exception that was never retrieved."""
    complaints = _Complaints()
    logger = logging.getLogger("asyncio")
    logger.addHandler(complaints)
    yield
    logger.removeHandler(complaints)
    assert complaints.said == []


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """The mock vendors, with quotas that no test exceeds."""
    names = ("intouch", "totango", "intempt", "emma", "digital_onboarding")
    async with Sandbox(quotas=dict.fromkeys(names, FAST)) as opened:
        yield opened


@pytest.fixture
async def pool() -> AsyncIterator[SessionPool]:
    """A pool with default settings."""
    async with SessionPool() as opened:
        yield opened


@pytest.fixture
def absent_port() -> Iterator[int]:
    """A port of 127.0.0.1 on which no server can listen during the test."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        yield port
