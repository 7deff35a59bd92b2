"""The only code that moves rows."""
