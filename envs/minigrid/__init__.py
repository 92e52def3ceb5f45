"""MiniGrid: small grid worlds seen from above."""
