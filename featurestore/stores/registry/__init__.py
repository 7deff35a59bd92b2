"""The registry: records, aliases, commits."""
