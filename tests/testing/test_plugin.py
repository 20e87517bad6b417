"""The pytest plugin, in pytest runs of its own."""

from __future__ import annotations

import pytest

pytest_plugins = "pytester"

CONFIGURED = """
    [pytest]
    asyncio_mode = {mode}
    asyncio_default_fixture_loop_scope = function
    filterwarnings = error
    addopts = --strict-markers -p no:cacheprovider
"""

TOGETHER = """
    import pytest
    from asyncclients import IntouchClient, ServerError, SessionPool

    pytestmark = pytest.mark.asyncio

    async def test_an_hour(sandbox, virtual_time, no_vendor_network):
        async with SessionPool() as pool:
            intouch = IntouchClient.from_env(pool, sandbox.environ)
            for number in range(20):
                await intouch.tags.create(f"tag {number}")
        assert 9 < virtual_time.elapsed < 11
        assert sandbox.rejected("intouch") == 0

    @pytest.mark.sandbox(quotas={"intouch": (1, 30.0)})
    async def test_a_quota_of_its_own(sandbox, virtual_time):
        async with SessionPool() as pool:
            intouch = IntouchClient.from_env(pool, sandbox.environ)
            await intouch.tags.create("one")
            await intouch.tags.create("two")
        assert 29 <= virtual_time.elapsed < 60

    async def test_a_fault_by_name(sandbox, virtual_time):
        sandbox.fail("intouch", "drop")
        sandbox.fail("intouch", "500", times=None, match="POST")
        async with SessionPool() as pool:
            intouch = IntouchClient.from_env(pool, sandbox.environ)
            assert await intouch.tags.list().first() is None
            with pytest.raises(ServerError):
                await intouch.tags.create("one")
            with pytest.raises(ValueError, match="drop, drop after, cut, hang, html"):
                sandbox.fail("intouch", "dorp")
        assert [a.status for a in sandbox.requests("intouch")] == [None, 200, 500]
"""


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_fixtures_work_with_pytest_asyncio(pytester: pytest.Pytester, mode: str) -> None:
    """Sandbox, virtual time and blocked network work together, in both modes."""
    pytester.makeini(CONFIGURED.format(mode=mode))
    pytester.makepyfile(TOGETHER)
    pytester.runpytest_subprocess().assert_outcomes(passed=3)


def test_plugin_loads_nothing_unasked(pytester: pytest.Pytester) -> None:
    """A run without these fixtures loads neither aiohttp nor msgspec."""
    pytester.makeini(CONFIGURED.format(mode="auto"))
    pytester.makepyfile(
        """
        import sys

        def test_modules():
            ours = [name for name in sys.modules if name.startswith("asyncclients.")]
            assert sorted(ours) == [
                "asyncclients.errors",
                "asyncclients.lazy",
                "asyncclients.testing",
                "asyncclients.testing.clock",
                "asyncclients.testing.network",
                "asyncclients.testing.plugin",
            ]
            assert "aiohttp" not in sys.modules
            assert "msgspec" not in sys.modules
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_library_does_not_import_pytest(pytester: pytest.Pytester) -> None:
    """Neither the package, its clients, its sandbox nor `asyncclients.testing` needs pytest."""
    script = pytester.makepyfile(
        """
        import sys
        import asyncclients, asyncclients.sandbox, asyncclients.testing
        [getattr(asyncclients, name) for name in asyncclients.__all__]
        print(sorted(name for name in sys.modules if "pytest" in name))
        """
    )
    pytester.runpython(script).stdout.fnmatch_lines(["[[]]"])


def test_fixture_of_a_user_replaces_the_plugins(pytester: pytest.Pytester) -> None:
    """A conftest's `sandbox` replaces the plugin's."""
    pytester.makeini(CONFIGURED.format(mode="auto"))
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture
        def sandbox():
            return "mine"
        """
    )
    pytester.makepyfile("def test_mine(sandbox): assert sandbox == 'mine'")
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_plugin_works_without_pytest_asyncio(pytester: pytest.Pytester) -> None:
    """Plain tests can block the network, and the marker is registered."""
    pytester.makepyfile(
        """
        import socket

        import pytest
        from asyncclients.testing import VendorNetworkError

        @pytest.mark.sandbox(seed=1)
        def test_closed(no_vendor_network):
            with pytest.raises(VendorNetworkError):
                socket.getaddrinfo("api.totango.com", 443)
        """
    )
    result = pytester.runpytest_subprocess(
        "-W", "error", "--strict-markers", "-p", "no:asyncio", "-p", "no:looptime_plugin"
    )
    result.assert_outcomes(passed=1)
