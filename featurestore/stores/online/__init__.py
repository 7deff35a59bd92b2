"""Online stores: rows by key."""
