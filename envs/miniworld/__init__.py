"""MiniWorld: small indoor 3-D worlds."""
