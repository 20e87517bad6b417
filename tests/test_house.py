"""The house keeps its rules, and each rule would notice a breach."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import asyncclients
from asyncclients import core, errors
from tests.support import call_trace
from tests.support.source_tree import (
    PACKAGE,
    cycles,
    danger_violations,
    floor_violations,
    function_violations,
    name_violations,
    sleep_violations,
)

HERE = Path(asyncclients.__file__).parent.parent

RULES: list[Callable[[Path], list[str]]] = [
    floor_violations,
    cycles,
    function_violations,
    name_violations,
    danger_violations,
]

PROMISED = {
    "SessionPool",
    "IntouchClient",
    "TotangoClient",
    "IntemptClient",
    "EmmaClient",
    "DigitalOnboardingClient",
    "Quota",
    "Priority",
    "Options",
    "RetryPolicy",
    "quota_middleware",
    "__version__",
}
ADDED = {"CapturedResponse", "capture_responses"}
"""Names beyond the promise; each stands here so that none slips out by accident."""


@pytest.mark.parametrize("rule", RULES)
def test_the_package_keeps(rule: Callable[[Path], list[str]]) -> None:
    """No file of the package breaks the rule."""
    assert rule(HERE) == []


LONG = "def long() -> None:\n" + "    x = 1\n" * 50
PLANTED: list[tuple[Callable[[Path], list[str]], dict[str, str], str]] = [
    (
        floor_violations,
        {"core/a.py": "from asyncclients.vendors.emma import b", "vendors/emma/b.py": ""},
        "asyncclients.core.a imports asyncclients.vendors.emma.b",
    ),
    (
        floor_violations,
        {
            "core/a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
            "    from asyncclients.backfill import b",
            "backfill/b.py": "",
        },
        "asyncclients.core.a imports asyncclients.backfill.b",
    ),
    (
        floor_violations,
        {"core/a.py": "def f():\n    from asyncclients import cli", "cli/__init__.py": ""},
        "asyncclients.core.a imports asyncclients.cli",
    ),
    (
        floor_violations,
        {"core/a.py": "import_module('asyncclients.cli')", "cli/__init__.py": ""},
        "asyncclients.core.a imports asyncclients.cli",
    ),
    (
        floor_violations,
        {"core/a.py": "import asyncclients"},
        "asyncclients.core.a imports asyncclients",
    ),
    (
        floor_violations,
        {"vendors/emma/a.py": "from ..totango import b", "vendors/totango/b.py": ""},
        "asyncclients.vendors.emma.a imports asyncclients.vendors.totango.b",
    ),
    (
        floor_violations,
        {"sandbox/a.py": "from asyncclients.errors import X", "errors.py": ""},
        "asyncclients.sandbox.a imports asyncclients.errors",
    ),
    (
        floor_violations,
        {"backfill/a.py": "import asyncclients.vendors.emma", "vendors/emma/__init__.py": ""},
        "asyncclients.backfill.a imports asyncclients.vendors.emma",
    ),
    (
        cycles,
        {
            "core/a.py": "from . import b",
            "core/b.py": "from asyncclients.core.c import x",
            "core/c.py": "from asyncclients.core import a",
        },
        "asyncclients.core.a -> asyncclients.core.b -> asyncclients.core.c -> asyncclients.core.a",
    ),
    (function_violations, {"a.py": LONG}, "asyncclients.a.long has 51 lines"),
    (
        function_violations,
        {"a.py": "class C:\n    def f(self, a, b, c, d, e, g): ..."},
        "asyncclients.a.f has 6 positional parameters",
    ),
    (name_violations, {"core/utils.py": '"""."""'}, "asyncclients.core.utils is no noun"),
    (name_violations, {"core/a.py": "x = 1"}, "asyncclients.core.a has no docstring"),
    (danger_violations, {"a.py": "eval('1')"}, "asyncclients.a:1 calls eval"),
    (danger_violations, {"a.py": "import pickle\npickle.loads(b'')"}, "calls pickle.loads"),
    (danger_violations, {"a.py": "import yaml\nyaml.load('')"}, "calls yaml.load"),
]


@pytest.mark.parametrize(("rule", "files", "said"), PLANTED)
def test_planted_breach_is_found(
    rule: Callable[[Path], list[str]], files: dict[str, str], said: str, tmp_path: Path
) -> None:
    """A planted breach is named, and a tree without it is clean."""
    (tmp_path / PACKAGE).mkdir()
    (tmp_path / PACKAGE / "__init__.py").write_text('"""."""')
    assert rule(tmp_path) == []
    for name, text in files.items():
        path = tmp_path / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert any(said in violation for violation in rule(tmp_path)), rule(tmp_path)


def test_sleeping_tests_run_in_virtual_time(tmp_path: Path) -> None:
    """No test sleeps in real time, and one that has lost its marker is named."""
    assert sleep_violations(Path(__file__).parent) == []
    marker, path = "@pytest.mark.virtual_time\n", tmp_path / "test_a.py"
    path.write_text(f"{marker}async def test_b():\n    await asyncio.sleep(0.1)")
    assert sleep_violations(tmp_path) == []
    path.write_text(path.read_text().removeprefix(marker))
    assert sleep_violations(tmp_path) == ["test_a.py::test_b sleeps: add @pytest.mark.virtual_time"]


def test_public_names_match_the_contract() -> None:
    """The names are the contract's, every error, and the additions named here; all resolve."""
    tree = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.AsyncClientsError)
    }
    assert set(dir(asyncclients)) == PROMISED | ADDED | tree
    for name in dir(asyncclients):
        assert getattr(asyncclients, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = asyncclients.Nonsense  # type: ignore[attr-defined, unused-ignore]


def test_core_exports_what_authors_of_vendors_import() -> None:
    """Every exported name resolves, and an unknown name is an `AttributeError`."""
    for name in dir(core):
        assert getattr(core, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = core.Nonsense  # type: ignore[attr-defined, unused-ignore]


async def test_create_passes_through_few_files() -> None:
    """A warm `create` passes through as few files and functions as a reader can follow."""
    found = await call_trace.create()
    # One function and six lines less, unless its round trip is one of the two shortest so far.
    assert found.files <= 12
    assert found.functions <= 39
    assert found.lines <= 529
    assert found.switches <= 28


async def test_push_passes_through_few_files(tmp_path: Path) -> None:
    """A push passes through as few files as a reader can follow."""
    # 31, and up to four that timers enter if the machine is slow.
    assert (await call_trace.push_rows(tmp_path)).files <= 35
