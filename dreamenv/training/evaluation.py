"""Evaluate a model on held-out episodes, during training and at its end."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import pack, unpack

from dreamenv.data.dataset import EpisodeDataset
from dreamenv.data.store import FrameStore
from dreamenv.data.windows import WindowSampler, windows_for_evaluation
from dreamenv.errors import DatasetError, FrameError, UnknownNameError
from dreamenv.frames import frames_to_numpy
from dreamenv.metrics.fidelity import HORIZONS, calibration, dream_fidelity
from dreamenv.metrics.objects import object_fidelity
from dreamenv.metrics.windows import dreamed, longest_horizon
from dreamenv.training.config import TrainConfig
from dreamenv.training.tensorboard_logger import TensorBoardLogger
from dreamenv.training.video import side_by_side, strip, write_mp4
from dreamenv.world_model import Batch, Stage

__all__ = ["Evaluator"]

_LOSS_BATCHES, _LOSS_ROWS = 4, 8
_VIDEO_WINDOWS = 2
_VIDEO_STEPS = 100
_STRIP_STEPS = (1, 5, 15, 30, 50, 100)
_CONTEXT = 8
_CALIBRATION_STEPS = 5_000
_FINAL_WINDOWS = 64


class Evaluator:
    """Evaluate a model during training; without held-out episodes, do nothing.

    Args:
        config: of the run.
        held_out: episodes the model is not trained on; may be empty.
        device: where the model is.
    """

    def __init__(self, config: TrainConfig, held_out: EpisodeDataset, device: torch.device) -> None:
        self._config, self._device = config, device
        self._store = FrameStore(held_out) if len(held_out) else None
        # Recordings of one-step episodes leave nothing to dream after a context.
        self._context = min(_CONTEXT, int(self._store.lengths.max()) - 1) if self._store else 0

    def scalars(self, model: Any, stage: Stage) -> dict[str, float]:
        """Return the stage's losses and the fidelity of short dreams, as scalars to log."""
        if self._store is None:
            return {}
        config = self._config
        horizons = sorted({h for h in HORIZONS if h < config.eval_horizon} | {config.eval_horizon})
        report = dream_fidelity(
            model,
            self._store,
            horizons=horizons,
            windows=config.eval_windows,
            context=self._context,
            seed=config.seed,
            device=self._device,
        )
        scalars = self._losses(stage)
        for horizon, entry in report["horizons"].items():
            for name in ("psnr", "ssim", "psnr_gain"):
                scalars[f"held_out/{name}_{horizon}"] = entry[name]["mean"]
        return scalars

    def video(self, model: Any, folder: Path, logger: TensorBoardLogger, step: int) -> None:
        """Write a video and a strip of reality (left, above) and the dream (right, below) under the same actions."""
        store = self._store
        if store is None:
            return
        horizon = longest_horizon(store, self._context, _VIDEO_STEPS)
        rows = windows_for_evaluation(store, self._context + horizon, _VIDEO_WINDOWS, self._config.seed)
        real, dream = [], []
        for batch, imagined in dreamed(
            model,
            store,
            rows,
            context=self._context,
            horizon=horizon,
            seed=self._config.seed,
            device=self._device,
        ):
            real.append(frames_to_numpy(batch.frames[:, self._context :]))
            dream.append(frames_to_numpy(imagined))
        truths, dreams = np.concatenate(real), np.concatenate(dream)
        both, rate = side_by_side(truths, dreams), store.dataset.provenance.frame_rate
        logger.video("reality_and_dream", both, rate, step)
        steps = [s - 1 for s in _STRIP_STEPS if s <= horizon]
        logger.image("strip", strip((truths[0], dreams[0]), steps, scale=2), step)
        write_mp4(folder / f"step-{step:08d}.mp4", both, rate, scale=2)

    def final(self, model: Any) -> dict[str, Any]:
        """Return the metrics that are stored with the world, JSON values."""
        if self._store is None:
            return {}
        seed = self._config.seed
        report = dream_fidelity(
            model, self._store, windows=_FINAL_WINDOWS, context=self._context, seed=seed, device=self._device
        )
        with contextlib.suppress(UnknownNameError, DatasetError, FrameError):  # none to find in these frames
            report["objects"] = object_fidelity(
                model,
                self._store.dataset,
                moments=_FINAL_WINDOWS,
                context=self._context,
                seed=seed,
                device=self._device,
            )
        return report | calibration(model, self._store, steps=_CALIBRATION_STEPS, seed=seed, device=self._device)

    def _losses(self, stage: Stage) -> dict[str, float]:
        assert self._store is not None
        sampler = WindowSampler(
            self._store,
            batch_size=min(stage.batch_size, _LOSS_ROWS),
            sequence_length=stage.sequence_length,
            seed=self._config.seed,
            crop_at_episode_ends=stage.crop_at_episode_ends,
        )
        totals: dict[str, float] = {}
        for step in range(_LOSS_BATCHES):
            batch = sampler.batch(step, self._device)
            if stage.precompute is not None:
                batch = _with_features(batch, stage)
            for objective in stage.objectives:
                loss, logs = objective.loss(batch)
                for name, value in {"loss": loss, **logs}.items():
                    key = f"held_out_{objective.name}/{name}"
                    totals[key] = totals.get(key, 0.0) + float(value) / _LOSS_BATCHES
        return totals


def _with_features(batch: Batch, stage: Stage) -> Batch:
    """Return the batch with the features that the stage would have precomputed, in place of its frames."""
    assert stage.precompute is not None
    frames = torch.cat((batch.first_frame[:, None], batch.frames), dim=1)  # b t+1 c h w
    flat, shape = pack([frames], "* c h w")
    values = stage.precompute(flat)
    rounded = values.half().float() if values.is_floating_point() else values.long()  # as they are stored
    return dataclasses.replace(
        batch,
        first_frame=batch.first_frame[:, :0],
        frames=batch.frames[:, :, :0],
        features=unpack(rounded.flatten(1), shape, "* d")[0].unflatten(-1, values.shape[1:]),
    )
