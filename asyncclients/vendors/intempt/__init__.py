"""Intempt: https://dev.intempt.com."""

from asyncclients.uploads import UploadReceipt as UploadReceipt
from asyncclients.vendors.intempt.client import IntemptClient as IntemptClient
from asyncclients.vendors.intempt.models import DataItem as DataItem
from asyncclients.vendors.intempt.models import EventMatches as EventMatches
from asyncclients.vendors.intempt.models import Segmentation as Segmentation
from asyncclients.vendors.intempt.models import ServiceInfo as ServiceInfo
