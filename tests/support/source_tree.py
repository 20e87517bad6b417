"""The rules of the house, as functions of a source tree: each returns its violations in words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "asyncclients"

FLOORS = {
    "errors": 0,
    "lazy": 0,
    "own_files": 1,
    "secret": 0,
    "arguments": 1,
    "base_url": 2,
    "ratelimit": 2,
    "paging": 2,
    "core": 3,
    "stores": 4,
    "uploads": 4,
    "middleware": 4,
    "vendors": 5,
    "backfill": 5,
    "sandbox": 5,
    "simulator": 6,
    "": 7,  # the package itself: names only
    "integrations": 8,
    "testing": 8,
    "cli": 9,
    "__main__": 10,
}
"""A unit imports from lower floors and from itself. Each vendor is a unit of its own."""

LINES, PARAMETERS = 50, 5
"""Limits of a function: lines without its docstring (a screen), and positional parameters."""

REAL_TIME = ("cli/", "integrations/", "stores/", "docs/test_examples.py")
"""Tests that wait for other processes, which have no virtual time."""

FORBIDDEN_MODULES = frozenset({"utils", "util", "helpers", "common", "base", "manager", "misc"})
_LOADERS = frozenset({"pickle", "cPickle", "marshal", "shelve", "yaml", "dill"})

Module = tuple[str, Path, ast.Module]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def modules(root: Path) -> list[Module]:
    """Dotted name, path and tree of every module of the package under *root*."""
    found: list[Module] = []
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append((name, path, ast.parse(path.read_text(), str(path))))
    return found


def imports(module: Module, names: frozenset[str]) -> Iterator[str]:
    """The modules of ours that *module* imports, wherever in it and for whatever reason."""
    name, path, tree = module
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                target = f"{base}.{alias.name}" if f"{base}.{alias.name}" in names else base
                if target in names:
                    yield target
        elif isinstance(node, ast.Constant) and node.value in names - {PACKAGE}:
            yield str(node.value)  # for `import_module`; the package's own name is its logger's


def graph(root: Path) -> dict[str, list[str]]:
    """Return the imports of each module."""
    found = modules(root)
    names = frozenset(name for name, _, _ in found)
    return {module[0]: sorted(set(imports(module, names)) - {module[0]}) for module in found}


def unit(name: str) -> tuple[str, str]:
    """The floor's folder and the unit of module *name*."""
    parts = [*name.split(".")[1:], "", ""]
    return parts[0], f"{parts[0]}.{parts[1]}" if parts[0] == "vendors" and parts[1] else parts[0]


def floor_violations(root: Path) -> list[str]:
    """Imports that do not point down."""
    found: list[str] = []
    for name, targets in graph(root).items():
        floor, own = unit(name)
        for target in targets:
            below, other = unit(target)
            down = FLOORS[below] < FLOORS[floor] and floor != "sandbox"
            if own != other and not down:
                found.append(f"{name} imports {target}")
    return found


def cycles(root: Path) -> list[str]:
    """Modules that import each other, at whatever length."""
    edges = graph(root)
    done: set[str] = set()
    found: list[str] = []

    def visit(name: str, trail: list[str]) -> None:
        if name in trail:
            found.append(" -> ".join([*trail[trail.index(name) :], name]))
        elif name not in done:
            for target in edges[name]:
                visit(target, [*trail, name])
            done.add(name)

    for name in edges:
        visit(name, [])
    return found


def functions(tree: ast.Module) -> Iterator[Function]:
    """Every function of *tree*, methods and nested ones included."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def length(node: Function) -> int:
    """Lines of *node*, from `def` to the end, without its docstring."""
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def positional(node: Function) -> int:
    """Positional parameters of *node*, self and cls apart."""
    names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    return len([name for name in names if name not in {"self", "cls"}])


def function_violations(root: Path) -> list[str]:
    """Functions that do not fit on a screen, or take too many positional arguments."""
    found: list[str] = []
    for name, _, tree in modules(root):
        for node in functions(tree):
            if length(node) > LINES:
                found.append(f"{name}.{node.name} has {length(node)} lines")
            if positional(node) > PARAMETERS:
                found.append(f"{name}.{node.name} has {positional(node)} positional parameters")
    return found


def name_violations(root: Path) -> list[str]:
    """Modules with a meaningless name, or without a docstring."""
    found: list[str] = []
    for name, _, tree in modules(root):
        if name.rpartition(".")[2] in FORBIDDEN_MODULES:
            found.append(f"{name} is no noun of the field")
        if not ast.get_docstring(tree) and tree.body:
            found.append(f"{name} has no docstring")
    return found


def danger_violations(root: Path) -> list[str]:
    """Calls that run what they read: `eval`, `exec`, `pickle.load`, `yaml.load` and the like."""
    found: list[str] = []
    for name, _, tree in modules(root):
        found.extend(
            f"{name}:{node.lineno} calls {call}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and (call := _dangerous(node.func))
        )
    return found


def _dangerous(called: ast.expr) -> str | None:
    if isinstance(called, ast.Name) and called.id in {"eval", "exec"}:
        return called.id
    if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
        loads = called.attr in {"load", "loads", "open", "Unpickler", "unsafe_load", "full_load"}
        if called.value.id in _LOADERS and loads:
            return f"{called.value.id}.{called.attr}"
    return None


def sleep_violations(tests: Path) -> list[str]:
    """Tests that call `asyncio.sleep` in real time, outside `REAL_TIME`."""
    found: list[str] = []
    for path in sorted(tests.rglob("test_*.py")):
        name, text = path.relative_to(tests).as_posix(), path.read_text()
        if name.startswith(REAL_TIME) or re.search(
            r"^pytestmark = .*virtual_time", text, re.MULTILINE
        ):
            continue
        for node in functions(ast.parse(text)):
            is_test = node.name.startswith("test_")
            if is_test and not _uses(node, "virtual_time", "run_virtual") and _sleeps(node):
                found.append(f"{name}::{node.name} sleeps: add @pytest.mark.virtual_time")
    return found


def _uses(node: Function, *names: str) -> bool:
    return any(re.search(rf"\b{name}\b", ast.unparse(node)) for name in names)


def _sleeps(node: Function) -> bool:
    calls = (each for each in ast.walk(node) if isinstance(each, ast.Call))
    return any(
        ast.unparse(call.func) == "asyncio.sleep" and ast.unparse(call.args[0]) != "0"
        for call in calls
    )
