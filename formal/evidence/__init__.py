"""What makes a verdict re-checkable by a stranger: traces and their replay, without any solver."""
