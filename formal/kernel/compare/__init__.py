"""The C of a tree against the specification."""
