"""Networks that denoise frames, one per file, each below its settings. `base` says what a world asks of them."""
