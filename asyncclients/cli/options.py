"""The options of a pull, push and sync, on the command line and in a file of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, Token, validators
from msgspec import Meta

from asyncclients.errors import encodable


def pairs(_: Any, tokens: Sequence[Token]) -> dict[str, str]:
    """Return the texts `a=b` of *tokens* as `{"a": "b"}`."""
    found: dict[str, str] = {}
    for token in tokens:
        name, equals, value = token.value.partition("=")
        shown = encodable(token.value)
        if not equals or not name:
            raise ValueError(f"{shown!r} is not NAME=VALUE, without spaces around =.")
        if shown != token.value:
            raise ValueError(f"{shown!r} is not valid UTF-8.")
        if name in found:
            raise ValueError(f"{name} is given twice: {found[name]!r} and {value!r}.")
        found[name] = value
    return found


_PAIRS = Parameter(
    negative="", accepts_keys=False, n_tokens=-1, consume_multiple=False, converter=pairs
)
Pairs = Annotated[dict[str, Any], _PAIRS]
Switch = Annotated[bool, Parameter(negative="")]
Count = Annotated[int, Parameter(validator=validators.Number(gte=1)), Meta(ge=1)]
Share = Annotated[float, Parameter(validator=validators.Number(gte=0, lte=1)), Meta(ge=0, le=1)]
QuotaShare = Annotated[float, Parameter(validator=validators.Number(gt=0, lte=1)), Meta(gt=0, le=1)]
Seconds = Annotated[float, Parameter(validator=validators.Number(gte=0)), Meta(ge=0)]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """The options of every job."""

    state: Path | None = None
    """the file that records the progress; by default FILE.state"""
    max_failed: Share = 0.1
    """share of failed rows or unreadable items above which it stops"""
    share: QuotaShare | None = None
    """most of every quota that it takes, such as 0.6; the rest stays free for other calls"""
    new_credential: Switch = False
    """resume the state with a new credential of the same account"""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class PullOptions(JobOptions):
    """The options of a pull."""

    query: Pairs = field(default_factory=dict[str, Any])
    """NAME=VALUE, an argument of the list, such as sort_by=email"""
    key: str | None = None
    """the field that identifies an item; by default uuid or id"""
    refresh: Switch = False
    """bring the file of an earlier pull up to date"""
    since: str | None = None
    """of a refresh: read only what changed, by this time field, such as updated_at; items that the vendor has deleted are kept"""
    lag: Seconds = 300.0
    """of a refresh: seconds before the newest known time that are read again"""
    changes: Path | None = None
    """of a refresh: a file for the differences, as JSON lines"""

    def __post_init__(self) -> None:
        if (self.since is not None or self.changes) and not self.refresh:
            raise ValueError("`since` and `changes` are for a refresh: give `refresh` as well")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class WriteOptions(JobOptions):
    """The options that a push and a sync have in common."""

    map: Annotated[dict[str, str], _PAIRS] = field(default_factory=dict[str, str])
    """COLUMN=field renames a column, COLUMN= omits it, COLUMN=a.b nests it"""
    set: Pairs = field(default_factory=dict[str, Any])
    """field=value, the same in each row"""
    concurrency: Count = 64
    """number of concurrent calls"""
    dry_run: Switch = False
    """send nothing and show what would be sent: counts, duration, the first request, invalid rows"""
    limit: Count | None = None
    """stop after this number of rows, in a sync of changes; run it again to continue"""
    retry_failed: Switch = False
    """send the failed rows again, although they have not changed; --map may be corrected, and the STATE.failed.jsonl of a push edited"""
    resend_unknown: Switch = False
    """send rows again that may or may not have arrived"""
    drop_unknown: Switch = False
    """do not send rows again that may or may not have arrived"""

    def __post_init__(self) -> None:
        if self.resend_unknown and self.drop_unknown:
            raise ValueError("give --resend-unknown or --drop-unknown, not both")

    @property
    def unknown(self) -> Literal["keep", "resend", "drop"]:
        """What becomes of rows that may or may not have arrived."""
        return "resend" if self.resend_unknown else "drop" if self.drop_unknown else "keep"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class PushOptions(WriteOptions):
    """The options of a push."""

    with_: Annotated[dict[str, Any], _PAIRS, Parameter(name="--with")] = field(
        default_factory=dict[str, Any]
    )
    """NAME=VALUE, another argument of the operation besides the row"""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SyncOptions(WriteOptions):
    """The options of a sync."""

    key: str | None = None
    """the column that identifies a row; by default that of the resource, such as email"""
    on_missing: Literal["keep", "delete"] = "keep"
    """keep or delete items whose row is gone"""
    max_deleted: Share = 0.1
    """share of the items above which it stops instead of deleting them"""
    adopt: Switch = False
    """read the vendor's list first, in a dry run too, and compare its items with the file"""
