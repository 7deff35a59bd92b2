"""Pure functions from definitions and schemas to relations, plans and changes."""
