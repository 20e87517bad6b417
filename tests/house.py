"""The rules of the house, as functions of a source tree: each returns its violations in words."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median

PACKAGE = "asyncclients"

FLOORS = {
    "errors": 0,
    "secret": 0,
    "base_url": 1,
    "limits": 1,
    "http": 1,
    "paging": 1,
    "core": 2,
    "stores": 3,
    "uploads": 3,
    "middleware": 3,
    "vendors": 4,
    "backfill": 4,
    "sandbox": 4,
    "simulator": 5,
    "": 6,  # the package itself: names only
    "integrations": 7,
    "testing": 7,
    "cli": 8,
    "__main__": 9,
}
"""A unit imports from lower floors and from itself. Each vendor is a unit of its own."""

FILE, FUNCTION, MEDIAN, METHODS, PARAMETERS, COMPLEXITY = 300, 40, 8, 12, 5, 8
CORE = 2500
"""Lines of code in `core/`, docstrings and comments apart: what can be read in an hour."""

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


def graph(root: Path) -> dict[str, list[str]]:
    """Who imports whom."""
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


def complexity(node: Function) -> int:
    """McCabe's number: one more than the branches, those of nested functions apart."""
    branches = (
        ast.If,
        ast.For,
        ast.AsyncFor,
        ast.While,
        ast.ExceptHandler,
        ast.comprehension,
        ast.match_case,
    )
    count, todo = 1, list(ast.iter_child_nodes(node))
    while todo:
        child = todo.pop()
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            count += isinstance(child, branches)
            todo.extend(ast.iter_child_nodes(child))
    return count


def positional(node: Function) -> int:
    """Positional parameters of *node*, self and cls apart."""
    names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    return len([name for name in names if name not in {"self", "cls"}])


def budget_violations(root: Path) -> list[str]:
    """Files, functions and classes that are too large."""
    found: list[str] = []
    lengths: list[int] = []
    for name, path, tree in modules(root):
        lines = len(path.read_text().splitlines())
        if lines > FILE:
            found.append(f"{name} has {lines} lines")
        for node in functions(tree):
            lengths.append(length(node))
            found.extend(f"{name}.{node.name} {problem}" for problem in function_problems(node))
        found.extend(
            f"{name}.{node.name} has {len(public_methods(node))} public methods"
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef) and len(public_methods(node)) > METHODS
        )
    if lengths and median(lengths) > MEDIAN:
        found.append(f"the median function has {median(lengths)} lines")
    core = sum(code_lines(path) for name, path, _ in modules(root) if unit(name)[0] == "core")
    if core > CORE:
        found.append(f"core has {core} lines of code")
    return found


def code_lines(path: Path) -> int:
    """Lines that hold code: no docstring, comment or blank line."""
    text = path.read_text()
    words: set[int] = set()
    for node in ast.walk(ast.parse(text, str(path))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            words.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(
        bool(line.strip()) and line.strip()[0] != "#" and n not in words for n, line in lines
    )


def function_problems(node: Function) -> Iterator[str]:
    """What is too much about one function."""
    if length(node) > FUNCTION:
        yield f"has {length(node)} lines"
    if complexity(node) > COMPLEXITY:
        yield f"has complexity {complexity(node)}"
    if positional(node) > PARAMETERS:
        yield f"has {positional(node)} positional parameters"


def public_methods(node: ast.ClassDef) -> list[str]:
    """The methods of a class that users see; overloads count once."""
    names = {
        child.name
        for child in node.body
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    return sorted(name for name in names if not name.startswith("_"))


def name_violations(root: Path) -> list[str]:
    """Modules with a name that says nothing, or without a docstring."""
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
