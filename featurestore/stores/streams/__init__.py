"""Streams of rows: one file per kind."""
