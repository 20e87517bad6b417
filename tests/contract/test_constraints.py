"""Values are checked before they are sent: their types, and the constraints of the manuals."""

from __future__ import annotations

import pickle
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, cast
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, UnsetType

from asyncclients import InvalidValueError, SessionPool, StatusError
from asyncclients.backfill import push
from asyncclients.backfill.rows import check_row
from asyncclients.core.client import VendorClient
from asyncclients.core.constraints import Constraint, decoder_of, encode, find_problem, form_of
from asyncclients.sandbox import Sandbox
from asyncclients.sandbox.sandbox import VendorName
from asyncclients.vendors import digital_onboarding, emma, intouch, totango
from tests.support.clients import BY_VENDOR
from tests.support.vendor_operations import INPUT_STRUCTS

PARENT: Final = "11b01b44-ba2e-11e5-875c-0a5a4bfb150c"
Call = Callable[[Any], Awaitable[Any]]


def contact(**fields: Any) -> Call:
    """The creation of an Intouch contact that is valid but for *fields*."""
    given: dict[str, Any] = {"email": "a@example.com", **fields}
    return lambda client: client.contacts.create(intouch.NewContact(**given))


def node(**fields: Any) -> Call:
    """The creation of an Intouch node that is valid but for *fields*."""
    given: dict[str, Any] = {"name": "Shop", "type": "location", "parent_uuid": PARENT, **fields}
    return lambda client: client.hierarchies.create(intouch.NewHierarchy(**given))


def page(resource: str, **query: Any) -> Call:
    """The first page of an Intouch list."""

    async def first(client: Any) -> Any:
        return await getattr(client, resource).list(**query).first()

    return first


def touchpoint(**fields: Any) -> Call:
    """The creation of an Emma touchpoint."""
    return lambda client: client.touchpoints.create([emma.NewTouchpoint(**fields)])


def note(**fields: Any) -> Call:
    """The creation of a Totango touchpoint that is valid but for *fields*."""
    given: dict[str, Any] = {"account_id": "1", "content": "called", **fields}
    return lambda client: client.touchpoints.create(totango.NewTouchpoint(**given))


LIMIT, SORTED = "integer [ 1 .. 25 ]", "Not all properties can be sorted"
DOCUMENTED: Final[list[tuple[VendorName, Call, str, str, str]]] = [
    ("intouch", lambda c: c.tags.create("x" * 256), "name", "1 to 255 characters", "required"),
    ("intouch", lambda c: c.tags.create(""), "name", "1 to 255 characters", "required"),
    ("intouch", page("tags", limit=26), "limit", "from 1 to 25", LIMIT),
    ("intouch", page("contacts", limit=0), "limit", "from 1 to 25", LIMIT),
    ("intouch", page("tags", page=0), "page", "at least 1", "integer >= 1"),
    ("intouch", page("tags", order="up"), "order", "one of asc, desc", 'Enum: "asc" "desc"'),
    ("intouch", page("tags", sort_by="email"), "sort_by", "one of name, created_at", SORTED),
    ("intouch", page("hierarchies", sort_by="code"), "sort_by", "client_code", SORTED),
    ("intouch", page("contacts", sort_by="uuid"), "sort_by", "phone_number", SORTED),
    ("intouch", node(name="x" * 256), "NewHierarchy.name", "255", "string <= 255 characters"),
    ("intouch", node(type="Location"), "NewHierarchy.type", "location", 'Enum: "location"'),
    ("intouch", node(parent_uuid="1"), "NewHierarchy.parent_uuid", "36", "string = 36 characters"),
    ("intouch", node(client_code="a b"), "NewHierarchy.client_code", "dashes", "<alpha_dash>"),
    ("intouch", node(client_code="a" * 256), "NewHierarchy.client_code", "255", "<alpha_dash>"),
    ("intouch", contact(email=""), "NewContact.email", "1 to 255", "required"),
    ("intouch", contact(email="a@b.c" * 52), "NewContact.email", "255", "<= 255 characters"),
    ("intouch", contact(first_name="x" * 101), "NewContact.first_name", "100", "<= 100"),
    ("intouch", contact(last_name="x" * 101), "NewContact.last_name", "100", "<= 100"),
    ("intouch", contact(phone_number="613-555-0100"), "NewContact.phone_number", "10", "10 digits"),
    ("intouch", contact(language="en_UK"), "NewContact.language", "50", "must be one of"),
    ("intouch", contact(custom_fields={"a": [1]}), "NewContact.custom_fields", "dates", "number"),
    ("intouch", contact(custom_fields={"a": 1.5}), "NewContact.custom_fields", "dates", "number"),
    ("totango", note(content="x" * 12_289), "NewTouchpoint.content", "12,288", "Up to 12K"),
    ("totango", note(account_id=""), "NewTouchpoint.account_id", "not empty", "account_id"),
    ("emma", lambda c: c.touchpoint_types.create("", "x"), "type_name", "not empty", "Required"),
    ("emma", lambda c: c.touchpoint_types.create("x", ""), "display_name", "empty", "Required"),
    ("emma", touchpoint(type_name="x"), "touchpoints[0]", "email or member_id", "Required if"),
    ("emma", touchpoint(email="a@b.ca"), "touchpoints[0]", "type_name", "Required if type_name"),
]
NAMES: Final = [
    f"{vendor} {field} {number}" for number, (vendor, _, field, *_) in enumerate(DOCUMENTED)
]


def client_of(vendor: VendorName, pool: SessionPool, sandbox: Sandbox) -> VendorClient:
    return BY_VENDOR[vendor].from_env(pool, sandbox.environ, quotas=())


@pytest.mark.parametrize(("vendor", "call", "field", "rule", "quote"), DOCUMENTED, ids=NAMES)
async def test_constraint_is_checked_before_sending(
    sandbox: Sandbox, vendor: VendorName, call: Call, field: str, *, rule: str, quote: str
) -> None:
    """A documented constraint costs no request; the error names field, value, rule and manual."""
    async with SessionPool() as pool:
        client = client_of(vendor, pool, sandbox)
        with pytest.raises(InvalidValueError) as caught:
            await call(client)
    error = caught.value
    assert sandbox.requests(vendor) == ()
    assert isinstance(error, ValueError)
    assert pickle.loads(pickle.dumps(error)) == error
    assert (error.vendor, error.field) == (vendor, field)
    assert error.rule is not None
    assert rule in error.rule
    assert error.source is not None
    assert quote in error.source
    assert client.vendor.manual in error.source
    for part in (error.operation, error.field, error.rule, error.source, error.value):
        assert part is None or part in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(("vendor", "call"), [case[:2] for case in DOCUMENTED], ids=NAMES)
async def test_unchecked_value_is_sent_and_rejected_by_the_mock_vendor(
    sandbox: Sandbox, vendor: VendorName, call: Call
) -> None:
    """With `validate=False` the value is sent; the mock vendor, a second reading, rejects it."""
    async with SessionPool(validate=False) as pool:
        with pytest.raises(StatusError) as caught:
            await call(client_of(vendor, pool, sandbox))
    assert caught.value.status in (400, 422)
    assert len(sandbox.requests(vendor)) == 1


# --- Types ------------------------------------------------------------------------

VALID: Final = {
    "email": "a@example.com",
    "name": "x",
    "type": "generic",
    "parent_uuid": PARENT,
    "account_id": "1",
    "content": "x",
}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("struct", "field"),
    [(struct, field) for struct in INPUT_STRUCTS for field in struct.__struct_fields__],
    ids=str,
)
def test_wrong_type_is_found(struct: Any, field: str, *, strict: bool) -> None:
    """Every field of every struct is checked, with and without the constraints."""
    own: dict[str, Any] = {
        name: value for name, value in VALID.items() if name in struct.__struct_fields__
    }
    assert find_problem(struct(**own), strict) is None or struct is emma.NewTouchpoint
    own[field] = object
    problem = find_problem(struct(**own), strict)
    assert problem is not None
    assert (problem.field, problem.value) == (f"{struct.__name__}.{field}", object)


async def test_wrong_type_is_rejected_before_sending(sandbox: Sandbox) -> None:
    """The error names struct, field, wanted type and given value, with any `validate`."""
    for validate in (True, False):
        async with SessionPool(validate=validate) as pool:
            client = client_of("intouch", pool, sandbox)
            with pytest.raises(InvalidValueError) as caught:
                await contact(email=5)(client)
            assert "intouch.contacts.create" in str(caught.value)
            assert "NewContact.email must be str, not 5" in str(caught.value)
            assert caught.value.source is None
            for wrong in (None, UNSET, b"a@b.c", ["a@b.c"], 1.5, True):
                with pytest.raises(InvalidValueError, match=r"NewContact\.email must be"):
                    await contact(email=wrong)(client)
    assert sandbox.requests("intouch") == ()


NO_STRUCTS: Final[list[tuple[VendorName, Call, str]]] = [
    ("intouch", lambda c: c.contacts.create({"email": "a@b.ca"}), "NewContact(email=...)"),
    ("intouch", lambda c: c.contacts.create("a@b.ca"), "NewContact(email=...)"),
    ("intouch", lambda c: c.contacts.update("1", None), "ContactUpdate(email=...)"),
    (
        "totango",
        lambda c: c.touchpoints.create({}),
        "NewTouchpoint(account_id=..., content=...",
    ),
    ("totango", lambda c: c.touchpoints.update("1", "x"), "TouchpointUpdate(activity_type_id=...)"),
    (
        "digital_onboarding",
        lambda c: c.contacts.upsert({"email": "a"}),
        "NewContact(unique_id=...)",
    ),
    ("digital_onboarding", lambda c: c.contacts.upsert_many([{}]), "[NewContact(...), ...]"),
    ("digital_onboarding", lambda c: c.journeys.create("1", "a"), "NewContact(unique_id=...)"),
]


@pytest.mark.parametrize(("vendor", "call", "form"), NO_STRUCTS)
async def test_argument_that_is_no_struct_is_rejected(
    sandbox: Sandbox, vendor: VendorName, call: Call, form: str
) -> None:
    """The error shows the struct that the method takes, and nothing is sent."""
    async with SessionPool() as pool:
        with pytest.raises(InvalidValueError) as caught:
            await call(client_of(vendor, pool, sandbox))
    assert form in str(caught.value)
    assert sandbox.requests(vendor) == ()


async def test_values_that_json_can_hold_are_accepted(sandbox: Sandbox) -> None:
    """Empty texts and nulls of optional fields, UUIDs, dates and number keys are sent as before."""
    async with SessionPool() as pool:
        intouch_client: Any = client_of("intouch", pool, sandbox)
        optional = dict.fromkeys(("first_name", "phone_number", "language"), "")
        fields = {"born": datetime.now(UTC).date(), "age": 3.0, "note": None, 7: 8}
        await contact(**optional, custom_fields=fields)(intouch_client)
        root = sandbox.state("intouch").root_uuid
        await node(parent_uuid=root, client_code="Zürich-१२_é")(intouch_client)
        totango_client: Any = client_of("totango", pool, sandbox)
        await note(account_id="0000", create_date=datetime.now(UTC), participant_list=["a"])(
            totango_client
        )
        onboarding: Any = client_of("digital_onboarding", pool, sandbox)
        extra = {"debit-card-activation": datetime.now(UTC)}
        person = digital_onboarding.NewContact(unique_id=str(uuid4()), extra=extra)
        await onboarding.contacts.upsert(person)
    assert len(sandbox.requests("intouch")) == 2


async def test_credential_in_a_value_is_redacted(sandbox: Sandbox) -> None:
    """An error about a value that holds the client's own credential does not show it."""
    key = sandbox.environ["INTOUCH_API_KEY"]
    async with SessionPool() as pool:
        client = client_of("intouch", pool, sandbox)
        with pytest.raises(InvalidValueError) as caught:
            await contact(phone_number=key)(client)
    assert key not in repr(caught.value)
    assert key not in str(caught.value)


VALUES: Final = st.one_of(
    st.just(UNSET),
    st.none(),
    st.text(max_size=3),
    st.integers(),
    st.floats(),
    st.binary(max_size=2),
    st.sampled_from(["en", "0123456789", "a@b.ca", "x" * 256, {"a": 1}, {1: 2.0}, [{"a": 1}], [5]]),
)


@pytest.mark.parametrize("strict", [True, False])
@given(values=st.lists(VALUES, min_size=7, max_size=7))
def test_both_ways_of_checking_agree(values: list[Any], *, strict: bool) -> None:
    """The fast check and the search for a problem come to the same result."""
    fields: dict[str, Any] = dict(zip(intouch.NewContact.__struct_fields__, values, strict=True))
    contact = intouch.NewContact(**fields)
    try:
        decoder_of(intouch.NewContact, strict)(encode(contact))
    except (ValueError, TypeError, OverflowError):
        # Only keys that JSON writes as text, and integers beyond 64 bits, are valid nevertheless.
        assert find_problem(contact, strict) or values[6] == {1: 2.0}
    else:
        assert find_problem(contact, strict) is None


# --- Structs of other authors ------------------------------------------------------


class Plain:
    """A type that has a form on the wire and cannot be read back."""

    def to_wire(self) -> str:
        return "plain"


class Inner(msgspec.Struct, frozen=True, kw_only=True):
    """A nested struct."""

    code: Annotated[
        str, Constraint("two letters", "2 letters", Annotated[str, msgspec.Meta(max_length=2)])
    ]


class Own(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A struct with the features that vendors' structs do not use."""

    plain: Plain
    inner: Inner | UnsetType = UNSET
    several: tuple[Inner, ...] = ()
    anything: Any = None


class Unresolvable(msgspec.Struct, frozen=True, kw_only=True):
    """A struct whose annotation names nothing."""

    field: Nothing  # type: ignore[name-defined]  # noqa: F821 # pyright: ignore[reportUndefinedVariable]


def test_struct_that_msgspec_cannot_decode_is_not_checked() -> None:
    """A struct whose types cannot be resolved is sent without a check."""
    assert form_of(Unresolvable, True) is Any
    assert find_problem(Unresolvable(field=1), True) is None


def test_unusual_structs_are_checked_or_accepted() -> None:
    """A type without a way back is not checked; nested structs and lists of them are."""
    assert (
        find_problem(emma.NewTouchpoint(email="a", type_name="b", member_id=cast("int", 5.0)), True)
        is None
    )
    assert find_problem(
        emma.NewTouchpoint(email="a", type_name="b", member_id=cast("int", 5.5)), True
    )
    assert form_of(Own, True) is not Any
    assert find_problem(Own(plain=Plain(), several=(Inner(code="de"),)), True) is None
    wrong = Inner(code="deu")
    for own, place in (
        (Own(plain=Plain(), inner=wrong), "Own.inner.code"),
        (Own(plain=Plain(), several=(Inner(code="de"), wrong)), "Own.several[1].code"),
    ):
        problem = find_problem(own, True)
        assert problem is not None
        assert (problem.field, problem.quote) == (place, "2 letters")
        assert find_problem(own, False) is None


# --- Rows -------------------------------------------------------------------------


async def test_push_fails_rows_without_requests(sandbox: Sandbox, tmp_path: Path) -> None:
    """A row that contradicts the manual is a failed row with that reason, also in a batch."""
    people = [
        {"email": f"user{n}@example.com", "phone_number": "1" * (9 + n % 2)} for n in range(6)
    ]
    visits = [{"email": f"user{n}@example.com", "type_name": "visit"} for n in range(12)]
    del visits[3]["email"]
    async with SessionPool() as pool:
        client: Any = client_of("intouch", pool, sandbox)
        report = await push(people, client.contacts.create, state=tmp_path / "a")
        assert (report.done, report.failed) == (3, 3)
        assert "exactly 10 digits" in (tmp_path / "a.failed.jsonl").read_text()
        client = client_of("emma", pool, sandbox)
        await client.touchpoint_types.create("visit", "Visit")
        report = await push(visits, client.touchpoints.create, state=tmp_path / "b")
        assert (report.done, report.failed) == (11, 1)
        assert "needs email or member_id" in (tmp_path / "b.failed.jsonl").read_text()
    assert len(sandbox.requests("intouch")) == 3
    assert len(sandbox.requests("emma")) == 1 + 2


async def test_row_is_checked_without_a_call(sandbox: Sandbox) -> None:
    """`check_row` raises what the call would raise, also for bound arguments; nothing is sent."""
    bad, good = intouch.NewContact(email=""), intouch.NewContact(email="a@example.com")
    async with SessionPool() as pool, SessionPool(validate=False) as lenient:
        client: Any = client_of("intouch", pool, sandbox)
        for operation in (client.contacts.create, partial(client.contacts.update, "1")):
            with pytest.raises(InvalidValueError, match=r"NewContact\.email"):
                check_row(operation, bad)
            check_row(operation, good)
        unchecked: Any = client_of("intouch", lenient, sandbox)
        check_row(unchecked.contacts.create, bad)
        check_row(print, bad)
        check_row(client.external_programs.add_record, {"a": 1})
    assert sandbox.requests("intouch") == ()
