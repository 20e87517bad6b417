"""For `push(reconcile=...)`: check whether a create whose response was lost succeeded.

Contacts are found by email and nodes by `client_code`. Tags and records have no key.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from asyncclients.vendors.intouch.client import Contacts, Hierarchies
from asyncclients.vendors.intouch.models import NewContact, NewHierarchy


def by_email(contacts: Contacts) -> Callable[[NewContact], Awaitable[bool]]:
    """Return a check that searches for the email of a contact: one call a row, rarely more.

    ```python
    await push(..., intouch.contacts.create, reconcile=by_email(intouch.contacts))
    ```
    """

    async def is_there(contact: NewContact) -> bool:
        email = contact.email.casefold()
        async for found in contacts.list(search=contact.email):
            if found.email.casefold() == email:
                return True
        return False

    return is_there


def by_client_code(hierarchies: Hierarchies) -> Callable[[NewHierarchy], Awaitable[bool | None]]:
    """Return a check that searches for the `client_code` of a node; without one, it gives None."""

    async def is_there(node: NewHierarchy) -> bool | None:
        code = node.client_code
        if not isinstance(code, str) or not code:
            return None
        async for found in hierarchies.list(search=code):
            if found.client_code == code:
                return True
        return False

    return is_there
