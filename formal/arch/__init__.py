"""The hardware, from the Arm Architecture Reference Manual: knows no kernel."""
