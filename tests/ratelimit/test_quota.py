"""A quota rejects invalid values."""

from __future__ import annotations

import math

import pytest

from asyncclients.errors import ConfigurationError
from asyncclients.ratelimit.quota import ONE, Demand, Quota, Share


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


def test_quota_applies_to_the_operations_of_its_patterns() -> None:
    """Patterns match whole names, case-sensitively; without patterns all operations count."""
    events = Quota(100, 60.0, operations=("events.*", "tags.list"))
    applies = {name: events.applies_to(name) for name in ("events.list", "tags.list", "Events.x")}
    assert applies == {"events.list": True, "tags.list": True, "Events.x": False}
    assert not events.applies_to("tags.listing")
    assert Quota(1, 1.0).applies_to("")
    assert str(events) == "events.*, tags.list 100 per 60 s"


@pytest.mark.parametrize("operations", ["events.*", [""], [5], None, 5])
def test_quota_rejects_operations_that_are_no_patterns(operations: object) -> None:
    """A single text, an empty pattern and other types raise an error with the right form."""
    with pytest.raises(ConfigurationError, match=r"operations=\('events\.\*',\)"):
        Quota(1, 1.0, operations=operations)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_quota_names_the_wrong_pattern() -> None:
    """The error names the element that is no pattern, or the value that is no sequence."""
    with pytest.raises(ConfigurationError, match="this one holds 1"):
        Quota(1, 1.0, operations=("events.*", 1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigurationError, match=r"this one is 'events\.\*'"):
        Quota.calendar(1, "day", operations="events.*")


@pytest.mark.parametrize(
    ("fraction", "limit"), [(0.6, 60), (0.29, 29), (0.0001, 1), (0.999, 99), (1.0, 100)]
)
def test_share_is_rounded_down_to_whole_calls(fraction: float, limit: int) -> None:
    """A share is at least one call, and never more than its fraction."""
    assert Share("", fraction).of(Quota(100, 60.0)) == Quota(limit, 60.0)


def test_demand_names_the_groups_of_its_quotas() -> None:
    """A call takes from the quotas of its operation and from its share of each."""
    total, events = Quota(10, 1.0), Quota(4, 60.0, operations=("events.*",))
    assert ONE.quotas([total, events]) == (("", total),)
    found = dict(Demand(1, "events.list", Share("nightly", 0.5)).quotas([total, events]))
    assert found == {
        "": total,
        "share:0.5:nightly": Quota(5, 1.0),
        "operations:events.*": events,
        "share:0.5:nightly operations:events.*": Quota(2, 60.0, operations=("events.*",)),
    }


@pytest.mark.parametrize(
    ("fraction", "quota", "words"),
    [
        (0.1, Quota(2, 1.0), ("share 0.1 of 2 per 1 s is rounded up to 1 per 1 s",)),
        (0.9, Quota(2, 1.0), ("share 0.9 of 2 per 1 s is rounded down to 1 per 1 s",)),
        (0.5, Quota(2, 1.0), ()),
        (0.65, Quota(101, 60.0), ()),
    ],
)
def test_share_states_a_rounding_that_changes_it_much(
    fraction: float, quota: Quota, words: tuple[str, ...]
) -> None:
    """The words give share, quota and result; a small change is not worth them."""
    assert Share("", fraction).roundings([quota]) == words
