"""The tests that the page on testing shows pass, as they would in a project of the reader's."""

from __future__ import annotations

import pytest

from .pages import ROOT, blocks

pytest_plugins = "pytester"

INI = """
    [pytest]
    asyncio_mode = auto
    asyncio_default_fixture_loop_scope = function
    filterwarnings = error
    addopts = --strict-markers -p no:cacheprovider
"""
CALLS_CHECK = """
async def test_without_fixtures():
    assert await check() < 1
"""


def test_the_tests_on_the_page_pass(pytester: pytest.Pytester) -> None:
    """Each `test_...` of the page passes, with warnings as errors; what is not one is called."""
    code = "\n".join(block.code for block in blocks(ROOT / "docs" / "testing.md"))
    pytester.makeini(INI)
    pytester.makepyfile(code + CALLS_CHECK)
    count = code.count("async def test_")
    assert count >= 5
    pytester.runpytest_subprocess().assert_outcomes(passed=count + 1)
