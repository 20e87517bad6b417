"""What a call asks of the scheduler."""

from __future__ import annotations

import math

from asyncclients.ratelimit.priority import Priority


class PermitRequest:
    """What a call asks of the scheduler.

    Attributes:
        priority: its class.
        flow: whose turn it takes.
        deadline_at: loop instant after which it is of no use; inf for none.
        is_retry: it has waited before, and goes to the front of its flow.

    Nobody changes one, so calls may share it.
    """

    __slots__ = ("deadline_at", "flow", "is_retry", "priority")

    def __init__(
        self,
        priority: Priority = Priority.INTERACTIVE,
        flow: str | None = None,
        deadline_at: float = math.inf,
        *,
        is_retry: bool = False,
    ) -> None:
        self.priority, self.flow, self.deadline_at = priority, flow, deadline_at
        self.is_retry = is_retry

    def as_retry(self) -> PermitRequest:
        """The same, for a call that has waited before."""
        return PermitRequest(self.priority, self.flow, self.deadline_at, is_retry=True)
