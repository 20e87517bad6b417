"""May this call be repeated: the table, row by row."""

from __future__ import annotations

from typing import Any

import pytest
from multidict import CIMultiDict

from asyncclients.core.codec import JsonObject
from asyncclients.core.endpoint import Endpoint, NoResponse, Outcome, Request, Response
from asyncclients.core.retry import Decision, RetryPolicy, RetryState, decide_failure
from asyncclients.core.vendor import ResponseKind, classify_response
from asyncclients.errors import ConfigurationError, ConnectError, DisconnectedError, TLSError

GONE, AGAIN = Decision.ALREADY_DELETED, Decision.RETRY
REFUSED, FAIL, UNKNOWN = Decision.RETRY_AFTER_PAUSE, Decision.FAIL, Decision.OUTCOME_UNKNOWN

UNSENT = NoResponse("no", ConnectError, "no connection")
LOST = NoResponse("maybe", DisconnectedError, "broke")
UNTRUSTED = NoResponse("no", TLSError, "no trust", final=True)
FINAL = NoResponse("maybe", DisconnectedError, "broke", final=True)


def request(method: Any = "GET", *, idempotent: bool) -> Request[JsonObject]:
    endpoint = Endpoint("things.do", method, "things", JsonObject, idempotent=idempotent)
    return endpoint.request()


def answer(status: int, body: bytes = b"") -> Response:
    return Response(status, CIMultiDict[str](), body)


def verdict(
    outcome: Outcome,
    *,
    idempotent: bool,
    method: str = "GET",
    tally: RetryState | None = None,
    policy: RetryPolicy | None = None,
) -> Decision:
    meaning = classify_response(outcome) if isinstance(outcome, Response) else ResponseKind.FAILURE
    called = request(method, idempotent=idempotent)
    return decide_failure(
        called, outcome, meaning, tally or RetryState(attempts=1), policy or RetryPolicy()
    )


@pytest.mark.parametrize(
    ("outcome", "repeatable", "not_repeatable"),
    [
        (answer(302), FAIL, FAIL),
        (answer(400), FAIL, FAIL),
        (answer(401), FAIL, FAIL),
        (answer(403), FAIL, FAIL),
        (answer(404), FAIL, FAIL),
        (answer(409), FAIL, FAIL),
        (answer(422), FAIL, FAIL),
        (answer(429), REFUSED, REFUSED),
        (answer(429, b'{"message":"Limit Exceeded"}'), FAIL, FAIL),
        (answer(500), AGAIN, FAIL),
        (answer(501), FAIL, FAIL),
        (answer(502), AGAIN, UNKNOWN),
        (answer(503), AGAIN, FAIL),
        (answer(504), AGAIN, UNKNOWN),
        (answer(408), AGAIN, AGAIN),
        (answer(425), AGAIN, AGAIN),
        (answer(520), AGAIN, UNKNOWN),
        (answer(521), AGAIN, FAIL),
        (answer(522), AGAIN, FAIL),
        (answer(523), AGAIN, FAIL),
        (answer(524), AGAIN, UNKNOWN),
        (answer(525), FAIL, FAIL),
        (answer(529), AGAIN, FAIL),
        (answer(530), FAIL, FAIL),
        (UNSENT, AGAIN, AGAIN),
        (LOST, AGAIN, UNKNOWN),
        (UNTRUSTED, FAIL, FAIL),
        (FINAL, FAIL, UNKNOWN),
    ],
)
def test_decision_for_each_outcome(
    outcome: Outcome, repeatable: Decision, not_repeatable: Decision
) -> None:
    """The decision for each outcome, for idempotent operations and others."""
    assert verdict(outcome, idempotent=True) is repeatable
    assert verdict(outcome, idempotent=False, method="POST") is not_repeatable


@pytest.mark.parametrize("outcome", [answer(503), UNSENT, LOST])
def test_repetition_ends(outcome: Outcome) -> None:
    """`max_attempts` counts the first attempt: the third failure of three is final."""
    policy = RetryPolicy(max_attempts=3)
    verdicts = [
        verdict(
            outcome, idempotent=True, tally=RetryState(attempts=n + 1, retries=n), policy=policy
        )
        for n in range(3)
    ]
    assert verdicts == [AGAIN, AGAIN, FAIL]


def test_rate_limits_and_failures_are_counted_separately() -> None:
    """429s and failures have separate limits."""
    policy = RetryPolicy(max_retries=1, max_rate_limited=3)
    many = RetryState(attempts=3, rate_limits=3)
    assert verdict(answer(429), idempotent=True, tally=many, policy=policy) is FAIL
    assert verdict(answer(503), idempotent=True, tally=many, policy=policy) is AGAIN
    spent = RetryState(attempts=2, retries=1)
    assert verdict(answer(503), idempotent=True, tally=spent, policy=policy) is FAIL
    assert verdict(answer(429), idempotent=True, tally=spent, policy=policy) is REFUSED


@pytest.mark.parametrize(
    "outcome", [answer(408), answer(425), answer(429), answer(503), answer(520), UNSENT, LOST]
)
def test_max_attempts_of_one_never_retries(outcome: Outcome) -> None:
    """With `max_attempts=1` nothing is retried, 429s included."""
    policy = RetryPolicy(max_attempts=1)
    tally = RetryState(attempts=1)
    assert verdict(outcome, idempotent=True, tally=tally, policy=policy) is FAIL


@pytest.mark.parametrize(("outcome", "usual"), [(answer(503), 3), (UNSENT, 3), (answer(429), 10)])
def test_attempts_are_bounded_whatever_for(outcome: Outcome, usual: int) -> None:
    """`max_attempts` limits 429s as well; it may exceed the default, and a lower limit wins."""

    def repeats(policy: RetryPolicy) -> int:
        return next(
            n
            for n in range(100)
            if verdict(
                outcome,
                idempotent=True,
                tally=RetryState(attempts=n + 1, retries=n, rate_limits=n),
                policy=policy,
            )
            is FAIL
        )

    assert repeats(RetryPolicy()) == usual
    assert repeats(RetryPolicy(max_attempts=3)) == 2
    assert repeats(RetryPolicy(max_attempts=30)) == 29
    assert repeats(RetryPolicy(max_attempts=30, max_retries=1, max_rate_limited=1)) == 1


def test_not_found_after_a_doubtful_delete_is_success() -> None:
    """404 after an attempt that may have been carried out is success; a first 404 is not."""
    doubtful, sure = RetryState(attempts=2, maybe_executed=True), RetryState(attempts=2)
    assert verdict(answer(404), idempotent=True, method="DELETE", tally=doubtful) is GONE
    assert verdict(answer(404), idempotent=True, method="DELETE", tally=sure) is FAIL
    assert verdict(answer(404), idempotent=True, method="GET", tally=doubtful) is FAIL


@pytest.mark.parametrize(
    ("outcome", "doubtful"),
    [
        (LOST, True),
        (answer(503), True),
        (answer(520), True),
        (UNSENT, False),
        (answer(408), False),
        (answer(425), False),
    ],
)
def test_attempt_is_doubtful_if_it_may_have_been_carried_out(
    outcome: Outcome, *, doubtful: bool
) -> None:
    """Only an attempt that may have been carried out makes a later 404 a success."""
    tally = RetryState(attempts=1)
    tally.note_failure(outcome)
    assert (tally.retries, tally.maybe_executed) == (1, doubtful)


def test_renewals_leave_attempts_alone() -> None:
    """Requests that were rejected for their token do not count against `max_attempts`."""
    policy = RetryPolicy(max_attempts=2)
    assert RetryState(attempts=2, renewed=1).has_attempts_left(policy)
    assert not RetryState(attempts=3, renewed=1).has_attempts_left(policy)


def test_waits_grow_and_are_capped() -> None:
    """The upper bound of a wait doubles up to the cap, also after a million failures."""
    policy = RetryPolicy(base=0.5, cap=30.0)
    for failures, most in ((1, 0.5), (2, 1.0), (3, 2.0), (7, 30.0), (10**6, 30.0)):
        waits = [policy.wait(failures) for _ in range(200)]
        assert 0 <= min(waits) < most / 4
        assert most * 3 / 4 < max(waits) <= most


def test_waits_differ() -> None:
    """Waits have full jitter, so that a hundred callers do not retry together."""
    assert len({RetryPolicy().wait(1) for _ in range(100)}) > 90


@pytest.mark.parametrize(
    "settings",
    [
        {"max_attempts": 0},
        {"max_retries": -1},
        {"max_rate_limited": -1},
        {"base": -1.0},
        {"base": 2.0, "cap": 1.0},
        {"cap": float("inf")},
        {"base": float("nan")},
    ],
)
def test_invalid_policy_is_rejected(settings: dict[str, Any]) -> None:
    """An invalid policy raises `ConfigurationError` at once."""
    with pytest.raises(ConfigurationError, match=r"^RetryPolicy: "):
        RetryPolicy(**settings)
