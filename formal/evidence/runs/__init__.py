"""Runs: traces, their replay, and what they show."""
