"""Alembic migrations of the registry, numbered, run when a registry is opened."""
