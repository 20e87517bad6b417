"""The dependencies are those in use, without versions that have known vulnerabilities."""

from __future__ import annotations

import ast
import sys
import tomllib
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import asyncclients

PACKAGE: Final = Path(asyncclients.__file__).parent
PROJECT: Final = Path(__file__).parent.parent.parent / "pyproject.toml"
BASE: Final = {"aiohttp", "aiolimiter", "msgspec", "python-backoff"}
MODULES: Final = {"python-backoff": "backoff"}
"""Import names of packages, if they differ."""
HOLES: Final = {"aiohttp": "3.14.5", "redis": "5.0.0"}
"""The first version without known advisories that concern a client.

aiohttp: CVE-2026-128131 among others, https://github.com/aio-libs/aiohttp/security ; redis:
CVE-2023-28858 and -28859, https://github.com/redis/redis-py/issues/2665 .
"""


@cache
def project() -> dict[str, Any]:
    """The project's table of `pyproject.toml`."""
    found: dict[str, Any] = tomllib.loads(PROJECT.read_text())["project"]
    return found


def requirements() -> list[Requirement]:
    """Of the base and of all extras."""
    extras = [text for extra in project()["optional-dependencies"].values() for text in extra]
    return [Requirement(text) for text in (*project()["dependencies"], *extras)]


def imported() -> set[str]:
    """The top names of all that the package imports and that is neither ours nor Python's."""
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"asyncclients"}


@pytest.mark.parametrize("name", HOLES)
def test_dependencies_exclude_known_vulnerabilities(name: str) -> None:
    """`pyproject.toml` allows no such version, and none is installed here."""
    floors = [
        Version(bound.version)
        for requirement in requirements()
        if requirement.name == name
        for bound in requirement.specifier
        if bound.operator == ">="
    ]
    assert floors
    assert min(floors) >= Version(HOLES[name])
    assert Version(version(name)) >= Version(HOLES[name])


def test_dependencies_have_lower_bounds() -> None:
    """Without one, an installer may choose any old version."""
    for requirement in requirements():
        assert any(bound.operator == ">=" for bound in requirement.specifier), requirement


def test_dependencies_are_imported() -> None:
    """The base install has four dependencies and uses each."""
    base = {Requirement(text).name for text in project()["dependencies"]}
    assert base == BASE
    assert {MODULES.get(name, name) for name in base} <= imported()
