"""Frames to latents and back, one autoencoder per file, each below its settings. `codec` normalises the latents."""
