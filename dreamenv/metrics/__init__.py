"""How good a world is, in numbers with intervals and beside a baseline."""
