"""Public checkpoints become worlds: one adapter per system, which maps names of tensors both ways."""
