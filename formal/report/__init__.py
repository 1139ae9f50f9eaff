"""Results for people and for programs. Sees verdicts and explanations only."""
