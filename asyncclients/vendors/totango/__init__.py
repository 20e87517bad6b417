"""Totango touchpoints: https://support.totango.com/hc/en-us/articles/115000597266-Touchpoints-API."""

from asyncclients.vendors.totango.client import TotangoClient as TotangoClient
from asyncclients.vendors.totango.models import Event as Event
from asyncclients.vendors.totango.models import NamedItem as NamedItem
from asyncclients.vendors.totango.models import NewTouchpoint as NewTouchpoint
from asyncclients.vendors.totango.models import Touchpoint as Touchpoint
from asyncclients.vendors.totango.models import TouchpointUpdate as TouchpointUpdate
from asyncclients.vendors.totango.sync import TouchpointTarget as TouchpointTarget
