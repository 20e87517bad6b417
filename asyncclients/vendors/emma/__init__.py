"""Emma (MyEmma) touchpoints: https://api.myemma.com/api/external/touchpoints.html."""

from asyncclients.vendors.emma.client import EmmaClient as EmmaClient
from asyncclients.vendors.emma.models import NewTouchpoint as NewTouchpoint
from asyncclients.vendors.emma.models import Timestamp as Timestamp
from asyncclients.vendors.emma.models import Touchpoint as Touchpoint
from asyncclients.vendors.emma.models import TouchpointType as TouchpointType
from asyncclients.vendors.emma.sync import TypeTarget as TypeTarget
