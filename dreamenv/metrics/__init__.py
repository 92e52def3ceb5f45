"""Measure worlds: frame fidelity, calibration and action fidelity, with intervals and against baselines."""
