"""Functions that are read instead of lifted, and the search for other writers."""
