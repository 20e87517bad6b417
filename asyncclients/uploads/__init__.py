"""Bodies that are streamed to a storage, of an announced length."""
