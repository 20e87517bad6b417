"""The state of a job on disk: the journal, its lock, and the state of a push or a pull in it."""
