"""The code of the page that adds a vendor works."""

from __future__ import annotations

import ast
import asyncio
import importlib
import re
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-vendor.md"
BLOCK = re.compile(r"```\{code-block\} python\n:caption: (\S+)\n(.*?)```", re.DOTALL)
CLIENT = ("acme/vendor.py", "acme/models.py", "acme/client.py")


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Write the blocks of the page to an importable package and return them."""
    blocks = dict(BLOCK.findall(PAGE.read_text()))
    for name, text in blocks.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))  # pyright: ignore[reportUnknownMemberType]
    for name in [name for name in sys.modules if name.split(".")[0] == "acme"]:
        monkeypatch.delitem(sys.modules, name)
    return blocks


@pytest.mark.virtual_time
async def test_adding_a_vendor_page_works(acme: dict[str, str]) -> None:
    """All four operations work, and the mock vendor rejects no call."""
    started = asyncio.get_running_loop().time()
    await importlib.import_module("acme.check").check()
    assert asyncio.get_running_loop().time() - started > 1.5, (
        "14 calls at five per second take time"
    )


def test_adding_a_vendor_is_a_small_change(acme: dict[str, str]) -> None:
    """A vendor with four operations has at most 125 lines of code."""
    lines = 0
    for name in CLIENT:
        tree = ast.parse(acme[name])
        docstrings = {
            number
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
        }
        lines += sum(
            bool(line.strip()) and number not in docstrings
            for number, line in enumerate(acme[name].splitlines(), 1)
        )
    assert lines <= 125
