"""Back ends that keep things: files, rows, records."""
