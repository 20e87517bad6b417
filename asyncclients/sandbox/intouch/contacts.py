"""Contacts: one email each among those that exist. An empty `custom_fields` reads `[]`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncclients.sandbox.vendor import Reply, Route

from .listing import CONTACTS, page_of
from .rules import (
    Field,
    checked,
    email,
    invalid,
    object_or_empty,
    objects,
    one_of,
    phone,
    text,
)
from .state import IntouchState, Row, contact_row, stamp
from .tags import found, remove, store

if TYPE_CHECKING:
    from asyncclients.sandbox.vendor import SandboxRequest

LANGUAGES = frozenset(
    [
        "en",
        "sq",
        "eu_ES",
        "bn_BD",
        "bg",
        "ca_ES",
        "zh-Hant",
        "zh-Hans",
        "hr_HR",
        "cs_CZ",
        "da_DK",
        "nl_NL",
        "en_US",
        "et_EE",
        "fi_FI",
        "fr_CA",
        "fr_FR",
        "de_DE",
        "el_GR",
        "hi_IN",
        "hu_HU",
        "is_IS",
        "id_ID",
        "it_IT",
        "ja_JP",
        "ko_KR",
        "lv_LV",
        "lt_LT",
        "ms_MY",
        "no_NO",
        "pl_PL",
        "pt",
        "pt_BR",
        "pt_PT",
        "pa_IN",
        "ro_RO",
        "ru_RU",
        "sr_RS",
        "sk_SK",
        "sl_SI",
        "es",
        "es_ES",
        "es_US",
        "sw",
        "sv_SE",
        "tl_PH",
        "th_TH",
        "tr_TR",
        "uk_UA",
        "vi_VN",
    ]
)

FIELDS = {
    "first_name": Field(text(100)),
    "last_name": Field(text(100)),
    "email": Field(email, required=True),
    "phone_number": Field(phone),
    "language": Field(one_of(LANGUAGES)),
    "contact_lists": Field(objects),
    "custom_fields": Field(object_or_empty),
}


def _check_unique(state: IntouchState, values: Row, own_uuid: str | None = None) -> None:
    address = values.get("email")
    if address is not None and state.contacts.owner(str(address)) not in {None, own_uuid}:
        raise invalid({"email": ["The email has already been taken."]})


def _list(state: IntouchState, call: SandboxRequest) -> Reply:
    return page_of(state.contacts, CONTACTS, call)


def _create(state: IntouchState, call: SandboxRequest) -> Reply:
    values = checked(call, FIELDS)
    _check_unique(state, values)
    row: Row = {"uuid": state.new_uuid(), **contact_row(values), "created_at": stamp(call.time)}
    return Reply.json(201, store(state.contacts, call, row))


def _get(state: IntouchState, call: SandboxRequest) -> Reply:
    return Reply.json(200, found(state.contacts, call))


def _update(state: IntouchState, call: SandboxRequest) -> Reply:
    row = found(state.contacts, call)
    values = checked(call, FIELDS, partial=True)
    _check_unique(state, values, str(row["uuid"]))
    # A list or object set to null reads as an empty one.
    values |= {
        name: values[name] or [] for name in ("contact_lists", "custom_fields") & values.keys()
    }
    return Reply.json(200, store(state.contacts, call, row | values))


def _delete(state: IntouchState, call: SandboxRequest) -> Reply:
    return remove(state.contacts, call)


def _subscribe(state: IntouchState, call: SandboxRequest) -> Reply:
    row = found(state.contacts, call) | {"status": "subscribed"}
    return Reply.json(200, store(state.contacts, call, row))


def _unsubscribe(state: IntouchState, call: SandboxRequest) -> Reply:
    row = found(state.contacts, call) | {"status": "unsubscribed"}
    return Reply.json(200, store(state.contacts, call, row))


# The manual prints neither the paths of contacts nor the method of the last two.
ROUTES: list[Route[IntouchState]] = [
    Route("GET", "/public/v1/contacts", _list),
    Route("POST", "/public/v1/contacts", _create),
    Route("GET", "/public/v1/contacts/{uuid}", _get),
    Route("PUT", "/public/v1/contacts/{uuid}", _update),
    Route("DELETE", "/public/v1/contacts/{uuid}", _delete),
    Route("PUT POST", "/public/v1/contacts/{uuid}/subscribe", _subscribe),
    Route("PUT POST", "/public/v1/contacts/{uuid}/unsubscribe", _unsubscribe),
]
