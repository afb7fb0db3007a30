"""What to run: a suite file, read and checked, and the plan of stages made from it. No torch."""
