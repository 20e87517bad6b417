"""The figures of a run, on cases that can be counted by hand."""

from __future__ import annotations

import math

import pytest

from asyncclients.simulator.report import mean_fill, most_in_window, percentile


def test_mean_fill_counts_an_arrival_for_one_window() -> None:
    """One arrival in ten seconds fills a window of one second a tenth of the time."""
    assert mean_fill([3.0], 1.0, 0.0, 10.0) == pytest.approx(0.1)
    assert mean_fill([0.0, 0.5], 1.0, 0.0, 1.0) == pytest.approx(1.5)


def test_mean_fill_is_limited_to_its_span() -> None:
    """Earlier arrivals count for their part inside the span, those at its end not at all."""
    assert mean_fill([-0.75, 10.0], 1.0, 0.0, 10.0) == pytest.approx(0.025)


def test_most_in_window_is_half_open() -> None:
    """Arrivals exactly one period apart are never in one window."""
    assert most_in_window([0.0, 1.0, 2.0], 1.0) == 1
    assert most_in_window([0.0, 0.5, 0.999, 1.0], 1.0) == 3
    assert most_in_window([], 1.0) == 0


def test_percentile_is_an_observed_value() -> None:
    """The nearest rank: 99 of 1 to 100 at 0.99; NaN without values."""
    values = [float(value) for value in range(100, 0, -1)]
    assert percentile(values, 0.99) == 99.0
    assert percentile(values, 1.0) == 100.0
    assert percentile([5.0], 0.0) == 5.0
    assert math.isnan(percentile([], 0.5))
