"""ViZDoom scenarios."""
