"""Lifted functions as operations and parts of the transition system."""
