"""The engines: they take obligations and systems, return values, and never print."""
