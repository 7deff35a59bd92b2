"""Offline engines: they translate a Rel and hand back Arrow batches."""
