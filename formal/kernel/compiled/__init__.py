"""The same functions as machine code: harness and differential test."""
