"""Backfills in a database that many workers share, for any task queue. Needs SQLAlchemy."""
