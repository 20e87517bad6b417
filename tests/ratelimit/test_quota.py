"""A quota that cannot be meant is refused where it is written."""

from __future__ import annotations

import math

import pytest

from asyncclients.errors import ConfigurationError
from asyncclients.ratelimit.quota import Quota


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, math.nan, math.inf])
def test_a_limit_that_is_no_whole_number_above_0_is_refused(limit: float) -> None:
    """0, a fraction, a bool, NaN and infinity are no limits; the error says which was given."""
    with pytest.raises(ConfigurationError) as error:
        Quota(limit, 1.0)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert repr(limit) in str(error.value)


@pytest.mark.parametrize("period", [0.0, -1.0, math.inf, -math.inf, math.nan])
def test_a_period_that_is_no_length_of_time_is_refused(period: float) -> None:
    """A period of 0, below 0, without end or NaN is refused; the error says which was given."""
    with pytest.raises(ConfigurationError) as error:
        Quota(1, period)
    assert repr(period) in str(error.value)


def test_a_quota_knows_its_rate_and_reads_as_it_is_said() -> None:
    """`Quota(100, 60)` is 100 per 60 s, and 5 calls every 3 s on average."""
    assert Quota(100, 60.0).rate == pytest.approx(5 / 3)
    assert str(Quota(100, 60.0)) == "100 per 60 s"


def test_equal_quotas_are_one() -> None:
    """Quotas are values: equal ones compare and hash alike."""
    assert len({Quota(2, 1.0), Quota(2, 1.0), Quota(2, 2.0)}) == 2
