"""The pytest plugin: fixtures that import their modules on first use.

pytest loads this module in every run if the library is installed, so it imports only pytest,
and pytest-asyncio if that is installed. With another runner of coroutines, such as anyio's,
the fixtures are plain async fixtures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

try:
    from pytest_asyncio import fixture as async_fixture
except ImportError:
    async_fixture: Any = pytest.fixture  # type: ignore[no-redef]

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from asyncclients.sandbox import Sandbox
    from asyncclients.testing.clock import VirtualClock


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        "sandbox(quotas=..., seed=..., latency=...): arguments of the `sandbox` fixture's Sandbox",
    )


@async_fixture
async def sandbox(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    """The five mock vendors on loopback, for this test."""
    from asyncclients.sandbox import Sandbox

    test: pytest.Item = request.node
    marker = test.get_closest_marker("sandbox")
    options: dict[str, Any] = dict(marker.kwargs) if marker else {}
    async with Sandbox(**options) as running:
        yield running


@async_fixture
async def virtual_time() -> AsyncIterator[VirtualClock]:
    """Virtual time in this test's event loop."""
    from asyncclients.testing.clock import virtual_time as virtual

    with virtual() as clock:
        yield clock


@pytest.fixture
def no_vendor_network() -> Iterator[None]:
    """Block the hosts of real vendors in this test."""
    from asyncclients.testing.network import no_vendor_network as blocked

    with blocked():
        yield
