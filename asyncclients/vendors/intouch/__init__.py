"""Intouch Insight: https://docs.api.intouchinsight.com."""

from asyncclients.vendors.intouch.client import IntouchClient as IntouchClient
from asyncclients.vendors.intouch.models import Contact as Contact
from asyncclients.vendors.intouch.models import ContactUpdate as ContactUpdate
from asyncclients.vendors.intouch.models import Hierarchy as Hierarchy
from asyncclients.vendors.intouch.models import HierarchyUpdate as HierarchyUpdate
from asyncclients.vendors.intouch.models import NewContact as NewContact
from asyncclients.vendors.intouch.models import NewHierarchy as NewHierarchy
from asyncclients.vendors.intouch.models import Record as Record
from asyncclients.vendors.intouch.models import Tag as Tag
from asyncclients.vendors.intouch.sync import ContactTarget as ContactTarget
from asyncclients.vendors.intouch.sync import HierarchyTarget as HierarchyTarget
from asyncclients.vendors.intouch.sync import TagTarget as TagTarget
