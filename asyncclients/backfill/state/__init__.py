"""The state of a job on disk: the journal, its lock, and what it holds of a push and of a pull."""
