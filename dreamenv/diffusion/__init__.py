"""Denoising, in parts that fit together: noise processes, what networks predict, samplers, and who is denoised when."""
