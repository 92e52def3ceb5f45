"""Rewards and terminations, predicted from what a backbone remembers or from frames of their own."""
