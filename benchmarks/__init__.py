"""Questions with answers: scripts that measure, one command each, JSON out."""
