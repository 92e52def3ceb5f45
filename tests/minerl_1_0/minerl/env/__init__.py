"""The parts of MineRL 1.0 that a worker touches."""
