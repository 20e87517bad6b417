"""The pages of the project and the code on them.

A block that begins with ```` ```python ```` is run, unless an HTML comment
`<!-- not run here: reason; tests/... runs it -->` precedes it.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[2]

_BLOCK = re.compile(
    r"(?:<!-- not run here: (?P<reason>[^>]+?) -->\s*)?^```python\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


class Block(NamedTuple):
    """One block of a page.

    Attributes:
        line: number of its first line of code.
        reason: why it is not run; None if it is.
    """

    page: Path
    line: int
    code: str
    reason: str | None

    def compiled(self) -> CodeType:
        """Return the code, which may `await`; `asyncio.run(x)` becomes `await x`."""
        tree = _Inside().visit(ast.parse(self.code, str(self.page)))
        ast.increment_lineno(tree, self.line - 1)
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code: CodeType = compile(tree, str(self.page), "exec", flags=flags, dont_inherit=True)
        return code

    async def run(self, namespace: dict[str, Any]) -> None:
        """Run the block as the next lines of a module with the globals *namespace*."""
        code = self.compiled()
        result = eval(code, namespace)
        if code.co_flags & inspect.CO_COROUTINE:
            await result


class _Inside(ast.NodeTransformer):
    """Replaces `asyncio.run`, which fails in a running loop."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return node

    visit_AsyncFunctionDef = visit_FunctionDef  # type: ignore[assignment]

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if ast.unparse(node.func) == "asyncio.run":
            return ast.copy_location(ast.Await(node.args[0]), node)
        return node


def pages() -> list[Path]:
    """Return the pages of docs, .github, benchmarks and examples, and those at the root."""
    found = [
        page for folder in ("", ".github/", "benchmarks/") for page in ROOT.glob(f"{folder}*.md")
    ]
    found += ROOT.glob("examples/**/*.md")
    found += [page for page in ROOT.glob("docs/**/*.md") if "_build" not in page.parts]
    return sorted(found)


def blocks(page: Path) -> list[Block]:
    """Return the Python blocks of *page*, in order."""
    text = page.read_text()
    return [
        Block(page, text.count("\n", 0, match.start("code")) + 1, match["code"], match["reason"])
        for match in _BLOCK.finditer(text)
    ]


def name_of(page: Path) -> str:
    """Return the test id of *page*."""
    return str(page.relative_to(ROOT))


def module_of(monkeypatch: pytest.MonkeyPatch, **names: object) -> dict[str, Any]:
    """Return the globals of a new module with *names*, registered so that annotations resolve."""
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    vars(module).update(names)
    return vars(module)
