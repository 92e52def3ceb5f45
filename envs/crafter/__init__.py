"""Crafter: survival in an open world, seen from above."""
