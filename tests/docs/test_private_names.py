"""The decision about private names lists those that the package uses."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.support.source_tree import modules

from .pages import ROOT

PAGE = ROOT / "docs" / "adr" / "0008-private-names.md"


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def _texts(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _defined(tree: ast.Module) -> Iterator[str]:
    """Yield the names that *tree* defines: functions, classes, variables, attributes, slots."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "__slots__" for target in node.targets
        ):
            yield from _texts(ast.walk(node.value))


def _used(tree: ast.Module) -> Iterator[str]:
    """Yield the private names that *tree* reads: attributes, `getattr`, imported names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
            yield from _texts(node.args)


def private_names(root: Path) -> set[str]:
    """Return the private names that the package reads and does not define."""
    trees = [tree for _, _, tree in modules(root)]
    defined = {name for tree in trees for name in _defined(tree)}
    used = {name for tree in trees for name in _used(tree)}
    return {name for name in used if _is_private(name)} - defined


def test_page_lists_every_private_name() -> None:
    """Each private name of another library that the package uses is on the page."""
    listed = set(re.findall(r"\b_\w+", PAGE.read_text()))
    assert private_names(ROOT) - listed == set()


@pytest.mark.parametrize("code", ["x._a", "getattr(x, '_a', None)", "from x import _a"])
def test_private_names_reports_a_use(code: str, tmp_path: Path) -> None:
    """A private name that the package does not define is reported."""
    (tmp_path / "asyncclients").mkdir()
    (tmp_path / "asyncclients" / "a.py").write_text(f"_b = 1\nx._b\n{code}\n")
    assert private_names(tmp_path) == {"_a"}
