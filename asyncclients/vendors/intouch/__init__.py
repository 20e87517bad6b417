"""Intouch Insight: https://docs.api.intouchinsight.com."""

from asyncclients.vendors.intouch.client import IntouchClient
from asyncclients.vendors.intouch.models import (
    Contact,
    ContactUpdate,
    Hierarchy,
    HierarchyUpdate,
    NewContact,
    NewHierarchy,
    Record,
    Tag,
)

__all__ = [
    "Contact",
    "ContactUpdate",
    "Hierarchy",
    "HierarchyUpdate",
    "IntouchClient",
    "NewContact",
    "NewHierarchy",
    "Record",
    "Tag",
]
