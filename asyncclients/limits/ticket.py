"""What a call asks of the scheduler."""

from __future__ import annotations

import math

from asyncclients.limits.priority import Priority


class Ticket:
    """What a call asks of the scheduler.

    Attributes:
        priority: its class.
        flow: whose turn it takes.
        deadline_at: loop instant after which it is of no use; inf for none.
        again: it has waited before, and goes to the front of its flow.

    Nobody changes one, so calls may share it.
    """

    __slots__ = ("again", "deadline_at", "flow", "priority")

    def __init__(
        self,
        priority: Priority = Priority.INTERACTIVE,
        flow: str | None = None,
        deadline_at: float = math.inf,
        *,
        again: bool = False,
    ) -> None:
        self.priority, self.flow, self.deadline_at = priority, flow, deadline_at
        self.again = again

    def repeated(self) -> Ticket:
        """The same, for a call that has waited before."""
        return Ticket(self.priority, self.flow, self.deadline_at, again=True)
