"""Draw `_static/architecture.svg`: the packages, their imports, and the path of a call.

`python docs/draw_architecture.py` updates the drawing; `tests/docs/test_architecture.py` fails
if it is outdated. `tests/support/source_tree.py` finds the imports, and
`tests/support/call_trace.py` the path. Only the position and the description of each package
are written here.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
DRAWING = Path(__file__).parent / "_static" / "architecture.svg"


class Place(NamedTuple):
    """Position of a package in columns and rows, and its description."""

    column: float
    row: int
    text: str
    columns: float = 1


PACKAGES: dict[str, Place] = {
    "cli": Place(2.2, 0, "commands"),
    "asyncclients": Place(0.5, 1, "public names"),
    "integrations": Place(1.85, 1, "OTel, monitor, DBOS"),
    "simulator": Place(3.5, 1, "tries out quotas"),
    "testing": Place(4.5, 1, "pytest fixtures"),
    "vendors": Place(0, 2, "five clients"),
    "middleware": Place(0.92, 2, "for any session"),
    "backfill": Place(1.84, 2, "pull and push"),
    "stores": Place(2.75, 2, "shared quotas"),
    "uploads": Place(0, 3, "files to a storage"),
    "core": Place(1.75, 4, "one call: token, attempt, decision, retry", 2.55),
    "ratelimit": Place(3.3, 5, "when to send"),
    "sandbox": Place(4.35, 5, "mock vendors"),
}
"""Packages, and the modules of the root that import one. Other modules of the root form the base."""


_PITCH, _WIDTH, _HEIGHT, _ROW = 146, 126, 46, 82
_LEFT, _TOP, _TOTAL = 74, 66, 800
_LINES, _STEP = 3, 24
_LEGEND = "Blue: a call passes through it. Imports that follow from other arrows are left out."
_MARKER = """\
<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path class="head" d="M0 0 8 4 0 8z"/></marker></defs>"""
_STYLE = """
text { font: 12px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #4a5563; }
.name { font-size: 14px; font-weight: 600; fill: #17202b; }
.file { font: 12px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #17202b; }
.title { font-size: 16px; font-weight: 600; fill: #17202b; }
.page { fill: #fbfcfd; stroke: #d5dbe1; }
.box { fill: #ffffff; stroke: #97a3b0; }
.used { fill: #e4f0fb; stroke: #2b72b8; stroke-width: 1.5; }
.import { fill: none; stroke: #8793a0; stroke-width: 1.3; marker-end: url(#head); }
.head { fill: #8793a0; }
.path { stroke: #2b72b8; stroke-width: 2; fill: none; }
.stop { fill: #2b72b8; }
.number { font-size: 10px; font-weight: 600; fill: #ffffff; text-anchor: middle; }
@media (prefers-color-scheme: dark) {
  text { fill: #a9b4c0; }
  .name, .file, .title { fill: #e8edf2; }
  .page { fill: #171b21; stroke: #333b45; }
  .box { fill: #222830; stroke: #5d6976; }
  .used { fill: #1b3550; stroke: #5ba3e8; }
  .import { stroke: #7a8794; }
  .head { fill: #7a8794; }
  .path { stroke: #5ba3e8; }
  .stop { fill: #5ba3e8; }
  .number { fill: #10151b; }
}
"""


def package_of(module: str) -> str:
    """Return the package of the dotted name *module*, or `asyncclients` itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def imports_of(graph: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    """Return the packages that each package imports, from the imports of modules."""
    found: dict[str, set[str]] = {}
    for module, targets in graph.items():
        package = package_of(module)
        found.setdefault(package, set()).update(map(package_of, targets))
        found[package].discard(package)
    return found


def drawn_imports(imports: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return the imports between drawn packages, without those implied by others."""
    drawn = {name: imports.get(name, set()) & set(PACKAGES) for name in PACKAGES}

    def below(name: str) -> set[str]:
        return drawn[name].union(*map(below, drawn[name]))

    return {
        name: {t for t in targets if not any(t in below(other) for other in targets - {t})}
        for name, targets in drawn.items()
    }


def draw(imports: Mapping[str, set[str]], path: Sequence[str]) -> str:
    """Return the drawing as SVG.

    Args:
        imports: the result of `imports_of`.
        path: the files of a call in order, relative to the package.
    """
    used = {Path(file).parts[0].removesuffix(".py") for file in path}
    bottom = _TOP + (max(place.row for place in PACKAGES.values()) + 1) * _ROW
    height = bottom + 120 + -(-len(path) // _LINES) * _STEP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_TOTAL} {height}" role="img">',
        "<title>The packages of asyncclients, their imports, and the path of a call</title>",
        f"<style>{_STYLE}</style>",
        _MARKER,
        f'<rect class="page" x="1" y="1" width="{_TOTAL - 2}" height="{height - 2}" rx="8"/>',
        '<text class="title" x="16" y="30">Packages. An arrow means "imports"</text>',
        f'<text x="16" y="48">{_LEGEND}</text>',
        *_arrows(drawn_imports(imports)),
        *(_package(name, place, used=name in used) for name, place in PACKAGES.items()),
        *_base(sorted(set(imports) - set(PACKAGES) - {"__main__"}), bottom),
        *_path(path, bottom + 84),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _center(place: Place) -> int:
    return round(_LEFT + place.column * _PITCH)


def _half(place: Place) -> int:
    return round((_WIDTH + (place.columns - 1) * _PITCH) / 2)


def _top(place: Place) -> int:
    return _TOP + place.row * _ROW


def _package(name: str, place: Place, *, used: bool) -> str:
    x, y, half = _center(place), _top(place), _half(place)
    kind = "used" if used else "box"
    return (
        f'<rect class="{kind}" x="{x - half}" y="{y}" width="{2 * half}" height="{_HEIGHT}" rx="5"/>'
        f'<text class="name" x="{x}" y="{y + 19}" text-anchor="middle">{escape(name)}</text>'
        f'<text x="{x}" y="{y + 36}" text-anchor="middle">{escape(place.text)}</text>'
    )


def _arrows(imports: Mapping[str, set[str]]) -> Iterator[str]:
    for name, targets in imports.items():
        source = PACKAGES[name]
        for target in sorted(targets):
            end = PACKAGES[target]
            x1 = _clamp(_center(end), _center(source), _half(source) - 25)
            x2 = _clamp(x1, _center(end), _half(end) - 25)
            y1, y2 = _top(source) + _HEIGHT, _top(end)
            bend = (y2 - y1) // 2
            yield (
                f'<path class="import" d="M{x1} {y1} C{x1} {y1 + bend} {x2} {y2 - bend} {x2} {y2}">'
                f"<title>{escape(name)} imports {escape(target)}</title></path>"
            )


def _clamp(value: int, middle: int, reach: int) -> int:
    return max(middle - reach, min(middle + reach, value))


def _base(modules: Sequence[str], y: int) -> Iterator[str]:
    names = ", ".join(modules)
    yield f'<rect class="box" x="9" y="{y}" width="{_TOTAL - 18}" height="{_HEIGHT}" rx="5"/>'
    yield f'<text class="name" x="{_TOTAL // 2}" y="{y + 19}" text-anchor="middle">base</text>'
    yield (
        f'<text x="{_TOTAL // 2}" y="{y + 36}" text-anchor="middle">modules that every package but '
        f"sandbox may import: {escape(names)}</text>"
    )


def _path(files: Sequence[str], y: int) -> Iterator[str]:
    yield f'<text class="title" x="16" y="{y}">Path of a warm contacts.create: files in order</text>'
    rows = -(-len(files) // _LINES)
    for column in range(_LINES):
        part = files[column * rows : (column + 1) * rows]
        x = 28 + column * (_TOTAL - 20) // _LINES
        last = y + 24 + (len(part) - 1) * _STEP
        yield f'<path class="path" d="M{x} {y + 24} V{last}"/>'
        for row, file in enumerate(part):
            at = y + 24 + row * _STEP
            yield (
                f'<circle class="stop" cx="{x}" cy="{at}" r="9"/>'
                f'<text class="number" x="{x}" y="{at + 3.5}">{column * rows + row + 1}</text>'
                f'<text class="file" x="{x + 17}" y="{at + 4}">{escape(file)}</text>'
            )


async def current() -> str:
    """Return an up-to-date drawing."""
    sys.path.insert(0, str(ROOT))
    from tests.support import call_trace
    from tests.support.source_tree import graph

    return draw(imports_of(graph(ROOT)), (await call_trace.create()).path)


def main() -> None:
    """Update the drawing."""
    DRAWING.parent.mkdir(exist_ok=True)
    DRAWING.write_text(asyncio.run(current()))


if __name__ == "__main__":
    main()
