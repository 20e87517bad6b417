"""Intempt: https://dev.intempt.com."""

from asyncclients.uploads import UploadReceipt
from asyncclients.vendors.intempt.client import IntemptClient
from asyncclients.vendors.intempt.models import DataItem, EventMatches, Segmentation, ServiceInfo

__all__ = [
    "DataItem",
    "EventMatches",
    "IntemptClient",
    "Segmentation",
    "ServiceInfo",
    "UploadReceipt",
]
