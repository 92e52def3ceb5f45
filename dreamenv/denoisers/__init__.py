"""Networks that denoise frames, one per file, each below its settings. `base` is their interface."""
