"""A quota rejects invalid values."""

from __future__ import annotations

import math

import pytest

from asyncclients.errors import ConfigurationError
from asyncclients.ratelimit.quota import Quota


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, math.nan, math.inf])
def test_quota_rejects_an_invalid_limit(limit: float) -> None:
    """0, fractions, bools, NaN and infinity raise an error that names the value."""
    with pytest.raises(ConfigurationError) as error:
        Quota(limit, 1.0)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert repr(limit) in str(error.value)


@pytest.mark.parametrize("period", [0.0, -1.0, math.inf, -math.inf, math.nan])
def test_quota_rejects_an_invalid_period(period: float) -> None:
    """0, negative, infinite and NaN periods raise an error that names the value."""
    with pytest.raises(ConfigurationError) as error:
        Quota(1, period)
    assert repr(period) in str(error.value)


def test_quota_has_rate_and_text() -> None:
    """`Quota(100, 60)` is shown as 100 per 60 s, and is 5 calls every 3 s on average."""
    assert Quota(100, 60.0).rate == pytest.approx(5 / 3)
    assert str(Quota(100, 60.0)) == "100 per 60 s"


def test_quotas_compare_by_value() -> None:
    """Equal quotas compare and hash alike."""
    assert len({Quota(2, 1.0), Quota(2, 1.0), Quota(2, 2.0)}) == 2
