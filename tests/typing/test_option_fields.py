"""The types of `with_options` are those of `Options`."""

from __future__ import annotations

from typing import get_type_hints

import msgspec

from asyncclients import Options
from asyncclients.core.options import OptionFields


def test_every_option_can_be_given() -> None:
    """`OptionFields` has the fields of `Options`, each with its type."""
    fields = {field.name: field.type for field in msgspec.structs.fields(Options)}
    assert get_type_hints(OptionFields) == fields
