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

__all__ = [
    "BatchResult",
    "Contact",
    "DigitalOnboardingClient",
    "Journey",
    "NewContact",
    "Objective",
    "Template",
]
