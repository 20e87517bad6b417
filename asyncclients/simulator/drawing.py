"""Charts of a simulation: the arrivals compared with the limit."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncclients.errors import ConfigurationError
from asyncclients.own_files import replacing

if TYPE_CHECKING:
    from os import PathLike

    from asyncclients.simulator.report import SimulationReport

_ROWS = 8
_BLOCKS = " ▁▂▃▄▅▆▇█"
_ASCII = str.maketrans("·│┬┴─▁▂▃▄▅▆▇█", ".|++-__..::##")


def draw_text(report: SimulationReport, *, width: int = 72, ascii_only: bool = False) -> str:
    """Return a chart of the rolling window's fill over the run, *width* columns wide.

    A column is as high as the fullest window that ended in its part of the run; the top
    line is the limit. An `x` below a column marks rejected calls. With *ascii_only* it can be
    printed in any encoding.
    """
    fills = _fullest(report, width)
    lines = [f"{report.quota.limit:>6} ┬{'─' * width} limit in {report.quota.period:g} s"]
    for row in range(_ROWS, 0, -1):
        label = f"{report.quota.limit / 2:g}" if row == _ROWS // 2 else ""
        eighths = (round((fill * _ROWS - row + 1) * 8) for fill in fills)
        lines.append(f"{label:>6} │{''.join(_BLOCKS[max(0, min(8, each))] for each in eighths)}")
    marks = "".join("x" if count else "·" for count in _rejections(report, width))
    lines.append(f"{0:>6} ┴{'─' * width} {report.seconds:g} s")
    lines.append(f"{'429':>6}  {marks} {report.rejected} rejected")
    text = "\n".join((_title(report), *lines, _figures(report)))
    return text.translate(_ASCII) if ascii_only else text


def _title(report: SimulationReport) -> str:
    return (
        f"{report.quota} · {report.server} · {report.latency} latency · "
        f"{report.workers} workers · seed {report.seed}"
    )


def _figures(report: SimulationReport) -> str:
    text = (
        f"{report.calls} calls, {report.rejected_share:.3%} rejected, "
        f"{report.quota_use:.1%} of the quota used, "
        f"at most {report.most_in_window} arrivals in any {report.quota.period:g} s"
    )
    if report.wait_p99 == report.wait_p99:  # NaN where no interactive call was made
        text += f"\ninteractive calls waited {report.wait_p50:.3f} s (median), "
        text += f"{report.wait_p99:.3f} s (99 of 100), {report.wait_max:.3f} s (longest)"
    return text


def _fullest(report: SimulationReport, width: int) -> list[float]:
    """Return the fullest window in each of *width* parts of the run, as a share of the limit."""
    step, at = report.seconds / width, report.accepted_at
    fills = [0.0] * width
    for index, instant in enumerate(at):
        inside = index + 1 - bisect_right(at, instant - report.quota.period)
        column = min(width - 1, int(instant / step))
        fills[column] = max(fills[column], inside / report.quota.limit)
    return fills


def _rejections(report: SimulationReport, width: int) -> list[int]:
    step, at = report.seconds / width, report.rejected_at
    edges = [bisect_left(at, step * column) for column in range(width)] + [len(at)]
    return [edges[column + 1] - edges[column] for column in range(width)]


def draw_image(report: SimulationReport, path: str | PathLike[str]) -> None:
    """Write the chart as an image; the suffix of *path* (`.png`, `.svg`, `.pdf`) is its format.

    Raises:
        ConfigurationError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigurationError(
            "drawing an image needs matplotlib, which is not installed",
            advice="Install it with: pip install 'asyncclients[plot]'",
        ) from None
    figure: Any = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.add_subplot()
    parts = 1000
    times = [report.seconds * (part + 0.5) / parts for part in range(parts)]
    fills = [fill * report.quota.limit for fill in _fullest(report, parts)]
    axes.fill_between(times, fills, step="mid", alpha=0.6, label="fullest window")
    axes.axhline(report.quota.limit, color="black", linewidth=1, label="limit")
    axes.plot(
        report.rejected_at,
        [report.quota.limit * 1.04] * report.rejected,
        "rx",
        label=f"{report.rejected} rejected",
    )
    axes.set(
        title=_title(report),
        xlabel="seconds",
        ylabel=f"calls in {report.quota.period:g} s",
        xlim=(0, report.seconds),
        ylim=(0, report.quota.limit * 1.15),
    )
    axes.legend(loc="lower right")
    with replacing(Path(path)) as file:
        figure.savefig(file, format=Path(path).suffix.removeprefix(".") or None)
