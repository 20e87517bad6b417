"""Emma (MyEmma) touchpoints: https://api.myemma.com/api/external/touchpoints.html."""

from asyncclients.vendors.emma.client import EmmaClient
from asyncclients.vendors.emma.models import NewTouchpoint, Timestamp, Touchpoint, TouchpointType
from asyncclients.vendors.emma.sync import TypeTarget

__all__ = ["EmmaClient", "NewTouchpoint", "Timestamp", "Touchpoint", "TouchpointType", "TypeTarget"]
