"""Crafter: an open world of survival, seen from above."""
