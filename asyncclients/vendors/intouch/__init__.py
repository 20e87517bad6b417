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
from asyncclients.vendors.intouch.sync import ContactTarget, HierarchyTarget, TagTarget

__all__ = [
    "Contact",
    "ContactTarget",
    "ContactUpdate",
    "Hierarchy",
    "HierarchyTarget",
    "HierarchyUpdate",
    "IntouchClient",
    "NewContact",
    "NewHierarchy",
    "Record",
    "Tag",
    "TagTarget",
]
