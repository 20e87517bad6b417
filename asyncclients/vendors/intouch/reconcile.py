"""For `push(reconcile=...)`: check whether a create whose response was lost succeeded.

Contacts are found by email and nodes by `client_code`. Tags and records have no key.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from asyncclients.vendors.intouch.client import Contacts, Hierarchies
from asyncclients.vendors.intouch.models import NewContact, NewHierarchy
from asyncclients.vendors.intouch.sync import ContactTarget, HierarchyTarget


def by_email(contacts: Contacts) -> Callable[[NewContact], Awaitable[bool]]:
    """Return a check that searches for the email of a contact: one call a row, rarely more.

    ```python
    await push(..., intouch.contacts.create, reconcile=by_email(intouch.contacts))
    ```
    """

    async def is_there(contact: NewContact) -> bool:
        return await ContactTarget(contacts).find(contact.email) is not None

    return is_there


def by_client_code(hierarchies: Hierarchies) -> Callable[[NewHierarchy], Awaitable[bool | None]]:
    """Return a check that searches for the `client_code` of a node; without one, it gives None."""

    async def is_there(node: NewHierarchy) -> bool | None:
        code = node.client_code
        if not isinstance(code, str) or not code:
            return None
        return await HierarchyTarget(hierarchies).find(code) is not None

    return is_there
