"""Draw what `dreamenv.benchmarks.foveation` trained: reality, and each layout's dream of it, the fovea marked.

``python -m dreamenv.benchmarks.foveation_picture --data D --work W --out P.png``. Columns are held-out moments that
show an object; each dream is ``horizon`` steps from its last real frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import tyro
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from dreamenv.backbones.denoising.world import DenoisingWorld
from dreamenv.benchmarks.foveation import LAYOUTS, make_config
from dreamenv.data.dataset import EpisodeDataset
from dreamenv.data.store import FrameStore
from dreamenv.data.windows import read_windows, windows_for_evaluation
from dreamenv.denoisers.foveated_dit import FoveatedDiT
from dreamenv.frames import frames_to_numpy
from dreamenv.metrics.known_objects import detector_for
from dreamenv.training.video import strip
from dreamenv.world_model import WorldModelSpec

__all__ = ["FoveationPicture", "main"]

_POOL = 400  # windows among which moments are sought
_FRAME = np.array([255, 255, 0], np.uint8)


@dataclass(frozen=True, kw_only=True)
class FoveationPicture:
    """Draw reality and dreams.

    Attributes:
        data: folder of the recording.
        work: folder that the benchmark worked in.
        moments: columns.
        horizon: steps into the dream.
        holdout, seed: as given to the benchmark.
        scale: pixels per pixel and side.
        out: PNG file to write.
    """

    data: Path
    work: Path
    moments: int = 6
    horizon: int = 2
    holdout: float = 0.1
    seed: int = 0
    scale: int = 3
    out: Path = Path("foveation.png")


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw from the command line."""
    settings = tyro.cli(FoveationPicture, args=arguments, description=__doc__)
    dataset = EpisodeDataset.open(settings.data)
    store = FrameStore(dataset.split(settings.holdout, settings.seed)[1])
    h, w, c = dataset.frame_shape
    spec = WorldModelSpec(frame_shape=(c, h, w), action_space=dataset.action_space, frame_rate=1.0)
    detector = detector_for(dataset.provenance.environment_id)
    context = LAYOUTS["uniform"].context
    rows = windows_for_evaluation(store, context + settings.horizon, _POOL, settings.seed)
    batch = read_windows(store, rows, context + settings.horizon)
    shows = [len(found) > 0 for found in detector(frames_to_numpy(batch.frames[:, -1]))]
    chosen = np.flatnonzero(shows)
    chosen = chosen[:: max(1, len(chosen) // settings.moments)][: settings.moments]
    pictures = [frames_to_numpy(batch.frames[chosen, -1])]
    for name, denoiser in LAYOUTS.items():
        world = make_config(denoiser, 1).build(spec).eval()
        trained = sorted(settings.work.glob(f"{name.replace(', ', '_')}-*.safetensors"), key=_steps)
        if not trained:
            continue
        world.load_state_dict(load_file(trained[-1]))
        with torch.no_grad():
            state = world.start(batch.first_frame[chosen], torch.arange(len(chosen)))
            state = world.observe(state, batch.actions[chosen, :context], batch.frames[chosen, :context])
            if settings.horizon > 1:
                _, state = world.imagine(state, batch.actions[chosen, context:-1])
            imagined, _ = world.imagine(state, batch.actions[chosen, -1:])
        assert imagined.frames is not None
        pictures.append(_framed(world, frames_to_numpy(imagined.frames[:, 0]), state.get("gaze")))
    Image.fromarray(strip(pictures, range(len(chosen)), scale=settings.scale)).save(settings.out)


def _steps(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def _framed(world: DenoisingWorld, frames: npt.NDArray[np.uint8], gaze: Tensor | None) -> npt.NDArray[np.uint8]:
    """Mark the pixels (n, h, w, 3) at the border of what is seen in fine tokens."""
    if gaze is None:
        return frames
    assert isinstance(world.denoiser, FoveatedDiT)
    fine = world.denoiser.fovea.fine_pixels(gaze, world.spec.frame_shape[1] // world.latent_shape[1]).numpy()
    padded = np.pad(fine, ((0, 0), (1, 1), (1, 1)))
    inner = padded[:, :-2, 1:-1] & padded[:, 2:, 1:-1] & padded[:, 1:-1, :-2] & padded[:, 1:-1, 2:]
    return np.where((fine & ~inner)[..., None], _FRAME, frames)


if __name__ == "__main__":
    main()
