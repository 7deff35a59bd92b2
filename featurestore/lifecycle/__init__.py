"""Pure rules of what lives on: lineage. No clock, no thread, no I/O."""
