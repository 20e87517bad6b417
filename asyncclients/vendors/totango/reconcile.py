"""For `push(reconcile=...)`: check whether a touchpoint whose response was lost was created.

Totango's touchpoints have no key of the caller, so they are compared by account, content and
(if the row has it) `create_date`. Rows equal in all three cannot be distinguished: give each
its own `create_date`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from asyncclients.vendors.totango.client import Touchpoints
from asyncclients.vendors.totango.models import Event, NewTouchpoint


def by_events(touchpoints: Touchpoints) -> Callable[[NewTouchpoint], Awaitable[bool]]:
    """Return a check that searches the events of a touchpoint's account: one call a row.

    ```python
    await push(..., totango.touchpoints.create, reconcile=by_events(totango.touchpoints))
    ```
    """

    async def is_there(touchpoint: NewTouchpoint) -> bool:
        events = await touchpoints.list(touchpoint.account_id)
        return any(_matches(event, touchpoint) for event in events)

    return is_there


def _matches(event: Event, touchpoint: NewTouchpoint) -> bool:
    if event.note_content is None or event.note_content.text != touchpoint.content:
        return False
    # `NewTouchpoint` converts a datetime to milliseconds.
    return not isinstance(touchpoint.create_date, int) or event.timestamp == touchpoint.create_date
