"""The rows of `dreamenv.benchmarks.compare_worlds`: which worlds it compares."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

__all__ = ["SAME_WEIGHTS", "WORLDS"]


def _in_steps(steps: int) -> Callable[[Any], Any]:
    """Return a change: sample frames in so many steps."""
    return lambda config: dataclasses.replace(config, sampler=dataclasses.replace(config.sampler, steps=steps))


def _moving(config: Any) -> Any:
    return dataclasses.replace(config, training=dataclasses.replace(config.training, motion_weight=0.8))


def _fixed_camera(config: Any) -> Any:
    """Weigh what differs from the mean frame, which is the background; no head that learns few deaths by heart."""
    return dataclasses.replace(
        config, training=dataclasses.replace(config.training, foreground_weight=20.0, dropout=0.3)
    )


def _fixed_camera_tokens(config: Any) -> Any:
    learning = dataclasses.replace(config.tokenizer.training, foreground_weight=20.0)
    return dataclasses.replace(
        config,
        tokenizer=dataclasses.replace(config.tokenizer, training=learning),
        training=dataclasses.replace(config.training, dropout=0.3),
    )


def _as_it_is(config: Any) -> Any:
    return config


# Name in the table: the backbone, its preset, and a change to its settings.
WORLDS: dict[str, tuple[str, str, Callable[[Any], Any]]] = {
    "rssm": ("rssm", "small", _as_it_is),
    "grid_rssm": ("grid_rssm", "small", _as_it_is),
    "grid_rssm_fixed_camera": ("grid_rssm", "small", _fixed_camera),
    "token_world": ("token_world", "small", _as_it_is),
    "token_world_fixed_camera": ("token_world", "small", _fixed_camera_tokens),
    "small": ("denoising", "small", _as_it_is),
    "small_latents": ("denoising", "small_latents", _as_it_is),
    "diffusion_forcing_like": ("denoising", "diffusion_forcing_like", _as_it_is),
    "diffusion_forcing_like_2": ("denoising", "diffusion_forcing_like", _in_steps(2)),
    "diffusion_forcing_like_moving": ("denoising", "diffusion_forcing_like", _moving),
    "nwm_like": ("denoising", "nwm_like", _as_it_is),
    "framepack_like": ("denoising", "framepack_like", _as_it_is),
    "framepack_like_2": ("denoising", "framepack_like", _in_steps(2)),
    "chunkwise": ("denoising", "chunkwise", _as_it_is),
    "holistic": ("denoising", "holistic", _as_it_is),
    "genie2_like": ("denoising", "genie2_like", _as_it_is),
    "shortcut_4": ("denoising", "shortcut", _in_steps(4)),
    "shortcut_2": ("denoising", "shortcut", _in_steps(2)),
    "shortcut_1": ("denoising", "shortcut", _in_steps(1)),
}
# Trained once, sampled in fewer steps.
SAME_WEIGHTS = {
    "diffusion_forcing_like_2": "diffusion_forcing_like", "framepack_like_2": "framepack_like",
    "shortcut_2": "shortcut_4", "shortcut_1": "shortcut_4",
}  # fmt: skip
