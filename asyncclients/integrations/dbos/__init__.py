"""Backfills on DBOS: many workers, one database, no other server. Needs the extra `[dbos]`."""

try:
    import dbos as _  # noqa: F401
except ImportError:
    raise ImportError("DBOS is not installed: pip install 'asyncclients[dbos]'") from None

from asyncclients.integrations.dbos.backfills import Backfills

__all__ = ["Backfills"]
