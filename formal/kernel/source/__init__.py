"""A kernel tree as files: layout, configuration, generated headers, git revisions."""
