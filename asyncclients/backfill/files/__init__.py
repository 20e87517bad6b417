"""Files that a backfill reads and writes: CSV, JSON lines and Parquet."""
