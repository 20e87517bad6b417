"""Digital Onboarding: https://docs.digitalonboarding.com/docs/api."""

from asyncclients.vendors.digital_onboarding.client import (
    DigitalOnboardingClient as DigitalOnboardingClient,
)
from asyncclients.vendors.digital_onboarding.models import BatchResult as BatchResult
from asyncclients.vendors.digital_onboarding.models import Contact as Contact
from asyncclients.vendors.digital_onboarding.models import Journey as Journey
from asyncclients.vendors.digital_onboarding.models import NewContact as NewContact
from asyncclients.vendors.digital_onboarding.models import Objective as Objective
from asyncclients.vendors.digital_onboarding.models import Template as Template
from asyncclients.vendors.digital_onboarding.sync import ContactTarget as ContactTarget
