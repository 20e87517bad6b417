"""The tests on the page about testing pass in a project of its reader."""

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


def test_testing_page_tests_pass(pytester: pytest.Pytester) -> None:
    """Each test of the page passes with warnings as errors, and so does its program without pytest."""
    code = "\n".join(block.code for block in blocks(ROOT / "docs" / "testing.md"))
    pytester.makeini(INI)
    pytester.makepyfile(code + CALLS_CHECK)
    count = code.count("async def test_")
    assert count >= 5
    pytester.runpytest_subprocess().assert_outcomes(passed=count + 1)
