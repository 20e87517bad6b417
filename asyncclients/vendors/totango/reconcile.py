"""Finding out whether a touchpoint whose answer was lost was created: `push(reconcile=...)`.

Totango gives a touchpoint no key of the caller's, so it is known by what it says:
account, text, and time where the row has one. Of rows that are alike in all
three one cannot be told from another; give such rows a `create_date` of their own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from asyncclients.vendors.totango.client import Touchpoints
from asyncclients.vendors.totango.models import Event, NewTouchpoint


def by_events(touchpoints: Touchpoints) -> Callable[[NewTouchpoint], Awaitable[bool]]:
    """Asks the events of a touchpoint's account whether it is there; one call a row.

    ```python
    await push(..., totango.touchpoints.create, reconcile=by_events(totango.touchpoints))
    ```
    """

    async def is_there(touchpoint: NewTouchpoint) -> bool:
        events = await touchpoints.list(touchpoint.account_id)
        return any(_tells(event, touchpoint) for event in events)

    return is_there


def _tells(event: Event, touchpoint: NewTouchpoint) -> bool:
    if event.note_content is None or event.note_content.text != touchpoint.content:
        return False
    # Kept as milliseconds, whatever it was given as.
    return not isinstance(touchpoint.create_date, int) or event.timestamp == touchpoint.create_date
