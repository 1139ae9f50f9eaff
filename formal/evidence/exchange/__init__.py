"""The transition systems for other tools."""
