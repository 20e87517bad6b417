"""Totango touchpoints: https://support.totango.com/hc/en-us/articles/115000597266-Touchpoints-API."""

from asyncclients.vendors.totango.client import TotangoClient
from asyncclients.vendors.totango.models import (
    Event,
    NamedItem,
    NewTouchpoint,
    Touchpoint,
    TouchpointUpdate,
)
from asyncclients.vendors.totango.sync import TouchpointTarget

__all__ = [
    "Event",
    "NamedItem",
    "NewTouchpoint",
    "TotangoClient",
    "Touchpoint",
    "TouchpointTarget",
    "TouchpointUpdate",
]
