"""Public world models beside ours, with the same weights: the same outputs, and how fast each computes them."""
