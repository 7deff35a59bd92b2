"""Pure rules of what lives on: lineage, models, promotions, gates. No clock, no thread, no I/O."""
