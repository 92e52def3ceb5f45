"""Compare imported worlds with the public programs, with the same weights: outputs and speed."""
