"""Digital Onboarding: https://docs.digitalonboarding.com/docs/api."""

from asyncclients.vendors.digital_onboarding.client import DigitalOnboardingClient
from asyncclients.vendors.digital_onboarding.models import (
    BatchResult,
    Contact,
    Journey,
    NewContact,
    Objective,
    Template,
)
from asyncclients.vendors.digital_onboarding.sync import ContactTarget

__all__ = [
    "BatchResult",
    "Contact",
    "ContactTarget",
    "DigitalOnboardingClient",
    "Journey",
    "NewContact",
    "Objective",
    "Template",
]
