"""The Python blocks of all pages run against the mock vendors, and links are valid."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from .pages import ROOT, Block, blocks, module_of, name_of, pages

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_WITH_CODE = [page for page in pages() if blocks(page)]


@pytest.mark.virtual_time
@pytest.mark.parametrize("page", _WITH_CODE, ids=name_of)
async def test_page_code_runs(
    page: Path,
    names: Mapping[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The blocks of a page, run in order in one namespace, raise nothing."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.WARNING, "asyncclients")  # restored at the end if a page changes it
    namespace = module_of(monkeypatch, **names)
    for block in blocks(page):
        if block.reason is None:
            await block.run(namespace)


@pytest.mark.parametrize(
    "block",
    [block for page in _WITH_CODE for block in blocks(page) if block.reason],
    ids=lambda block: block.page.stem,
)
def test_page_code_that_is_not_run_here_is_run_elsewhere(block: Block) -> None:
    """The test that is named before a block exists and reads the block's page."""
    (test,) = re.findall(r"tests/\S+\.py", block.reason or "")
    assert f'"{block.page.name}"' in (ROOT / test).read_text()


async def test_page_code_reports_a_failing_line() -> None:
    """A failing block raises with the page and the line in its traceback."""
    with pytest.raises(NameError) as caught:
        await Block(ROOT / "README.md", 7, "x = 1\nawait missing()\n", None).run({})
    frame = caught.traceback[-1]
    assert (frame.path, frame.lineno + 1) == (ROOT / "README.md", 8)


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_page_links_exist(page: Path) -> None:
    """Each relative link of a page names an existing file."""
    targets = [target.partition("#")[0] for target in _LINK.findall(page.read_text())]
    inside = [target for target in targets if target and "://" not in target]
    inside = [target for target in inside if not target.startswith("mailto:")]
    assert [target for target in inside if not (page.parent / target).exists()] == []


def test_page_links_reports_a_missing_file(tmp_path: Path) -> None:
    """The check of links reports a missing file."""
    page = tmp_path / "page.md"
    page.write_text("[gone](gone.md#part) [web](https://example.com) [here](page.md)")
    with pytest.raises(AssertionError, match=r"gone\.md"):
        test_page_links_exist(page)
