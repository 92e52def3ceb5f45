"""Diffusion in parts: noise processes, prediction targets, samplers, and per-frame noise schedules."""
