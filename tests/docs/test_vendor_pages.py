"""The pages about vendors, and the README, have the operations of the clients."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from tests.support.clients import BY_VENDOR
from tests.support.scripts import load_script

from .pages import ROOT

README = ROOT / "README.md"
GENERATOR = load_script(ROOT / "docs" / "generate_vendors.py")


@pytest.mark.parametrize("vendor", GENERATOR.VENDORS)
def test_vendor_page_is_up_to_date(vendor: str) -> None:
    """The committed page is the output of `python docs/generate_vendors.py`."""
    page = GENERATOR.page_of(vendor).read_text()
    assert page == GENERATOR.renewed(vendor), "run python docs/generate_vendors.py"


@pytest.mark.parametrize("vendor", GENERATOR.VENDORS)
def test_vendor_page_lists_every_operation_and_the_manual(vendor: str) -> None:
    """The page lists every endpoint of the client and links to the manual."""
    page = GENERATOR.page_of(vendor).read_text()
    endpoints = GENERATOR.endpoints(vendor)
    assert endpoints
    assert [
        e for e in endpoints if f"| `{e.operation}` | {e.method} | `{e.path or '/'}`" not in page
    ] == []
    assert f"<{BY_VENDOR[vendor].vendor.manual}>" in page


def test_readme_counts_the_operations_of_each_vendor() -> None:
    """The README has the number of operations of each manual, among them the token request."""
    expected: dict[str, int] = {}
    for vendor, client in BY_VENDOR.items():
        # Totango's manual has one operation where two methods send the same request.
        requests = {msgspec.structs.replace(e, operation="") for e in GENERATOR.endpoints(vendor)}
        has_login = "client_secret" in client.vendor.environment
        expected[client.__name__] = len(requests) + has_login
    rows = re.findall(r"^\|[^|]+\| `(\w+)` \| (\d+) \|", README.read_text(), re.MULTILINE)
    found = {client: int(count) for client, count in rows}
    assert found == expected, "update the operations in README.md"


def test_vendor_page_check_reports_an_edited_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page with an edited table differs from the generated one."""
    edited = GENERATOR.page_of("emma").read_text().replace("180 per 60 s", "200 per 60 s")
    (tmp_path / "emma.md").write_text(edited)
    monkeypatch.setattr(GENERATOR, "PAGES", tmp_path)
    assert GENERATOR.renewed("emma") != edited
