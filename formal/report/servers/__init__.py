"""What other programs read of a run: JUnit, SARIF, KTAP."""
