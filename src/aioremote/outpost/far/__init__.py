"""What is shipped to the far end: Python 3.6 syntax, the standard library and itself, nothing else."""
