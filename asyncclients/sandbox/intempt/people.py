"""What Intempt knows of users: matched events and segmentations.

A user is named by a profile's id, by a master's id or, for segmentations, by a
source and a JSON object of identifiers. `masterId` is text everywhere;
`profileIds` are numbers in one answer and text in the other, as in the manual.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from asyncclients.sandbox.vendor import Reply, SandboxRequest, as_object

from .collections import HOST, hal
from .rows import refused
from .state import stamp

if TYPE_CHECKING:
    from .state import IntemptState, Profile, Row


def _by_id(state: IntemptState, call: SandboxRequest) -> Profile | None:
    profile_id, master_id = call.query.get("profileId"), call.query.get("masterId")
    if (profile_id is None) == (master_id is None):
        raise refused(400, "Bad Request", "Give masterId or profileId")
    for profile in state.profiles:
        if str(profile.master_id) == master_id or profile_id in {*map(str, profile.profile_ids)}:
            return profile
    return None


def _by_identifiers(state: IntemptState, call: SandboxRequest) -> Profile | None:
    try:
        wanted = as_object(cast("object", json.loads(call.query.get("profile", ""))))
    except ValueError:
        wanted = None
    if not wanted:
        raise refused(400, "Bad Request", "profile must be a JSON object")
    for profile in state.profiles:
        in_source = str(profile.source_id) == call.query["sourceId"]
        if in_source and wanted.items() <= profile.identifiers.items():
            return profile
    return None


def matches(state: IntemptState, call: SandboxRequest) -> Reply:
    profile = _by_id(state, call)
    if profile is None:
        raise refused(404, "Not Found", "No such user")
    body: Row = {
        "masterId": str(profile.master_id),
        "profileIds": [state.shown_id(number) for number in profile.profile_ids],
        "matchedEvents": profile.matched_events,
        "lastUpdated": stamp(profile.seen_at),
        "_links": {"self": {"href": f"{HOST.replace('https', 'http')}{call.path}"}},
    }
    return Reply.json(200, body)


def segmentations(state: IntemptState, call: SandboxRequest) -> Reply:
    find = _by_identifiers if "sourceId" in call.query else _by_id
    profile = find(state, call)
    return hal(state, call, "segmentations", [_segmentation(state, profile)] if profile else [])


def _segmentation(state: IntemptState, profile: Profile) -> Row:
    href = f"{HOST}/v1/{state.org}/segmentations/{profile.segmentation_id}"
    return {
        "id": str(profile.segmentation_id),
        "masterId": str(profile.master_id),
        "profileIds": [str(number) for number in profile.profile_ids],
        "created": stamp(profile.seen_at),
        "_links": {"self": {"href": href}},
    }
