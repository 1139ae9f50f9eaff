"""C that is not parsed: tokens, signs, definitions."""
