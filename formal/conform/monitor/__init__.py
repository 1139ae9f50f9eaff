"""The claims as monitors of a running kernel."""
