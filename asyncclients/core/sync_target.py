"""Find the target of a sync for a resource.

A resource such as `intouch.contacts` has the operations of the vendor's manual. What a sync needs
besides them (which field is the key, how an item is found by it, what its id is) is in a target,
which the vendor's package registers here. An object without a registered target is its own.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any


@singledispatch
def sync_target_of(resource: Any) -> Any:
    """Return the target of a sync for *resource*."""
    return resource
