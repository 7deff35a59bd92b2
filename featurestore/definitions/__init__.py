"""What users write: entities, sources, views, services."""
