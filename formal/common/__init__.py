"""Processes, options, exit codes, files: what every command needs."""
