"""What a run says: a report at its end, progress on the way. Frozen values."""

from __future__ import annotations

import msgspec


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a job has come to.

    Attributes:
        done: rows delivered, or items written; of the whole job so far.
        failed: rows the vendor or the row type refused, or items that nobody can
            read; of the whole job.
        unknown: rows that may or may not have been carried out; of the whole job.
        skipped: rows that `map` or the user dropped, or items that came twice; of
            the whole job.
        requests: put on the wire by this run.
        rejected: refusals by rate met by this run.
        seconds: that this run took.
        quota_use: share of what the quota allowed between this run's first and
            last request, one full window at the start included; 0 where no
            quota is known.
        total: what the vendor says there is; pulls only.
        unverified: in words, what could not be proved of a pull; empty when the
            file is the vendor's list and the vendor's own count says so.
        failures: the file that holds the failed rows or items, None when there are none.
    """

    done: int = 0
    failed: int = 0
    unknown: int = 0
    skipped: int = 0
    requests: int = 0
    rejected: int = 0
    seconds: float = 0.0
    quota_use: float = 0.0
    total: int | None = None
    unverified: tuple[str, ...] = ()
    failures: str | None = None


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run stands; given to `progress=` about once a second.

    Attributes:
        done: of the whole job so far, as are the three that follow.
        failed: see `Report`.
        unknown: see `Report`.
        skipped: see `Report`.
        rate: rows or items per second in this run.
        quota_use: see `Report`.
        eta: seconds to the end, None where it cannot be told.
        waiting: seconds for which the vendor has given no usable answer, else 0.
    """

    done: int
    failed: int
    unknown: int
    skipped: int
    rate: float
    quota_use: float
    eta: float | None
    waiting: float = 0.0
