"""Ten minutes on a GPU: are its dreams the CPU's, how fast is each preset, what does a large one learn?

::

    dreamenv collect take_cover --out runs/data --steps 50000
    python -m dreamenv.benchmarks.gpu --data runs/data --out runs/gpu

Four parts, each written to ``gpu.json`` as soon as it is measured, so that nothing is lost when time runs out:

- **equal**: untrained worlds of every preset dream from one state under the same actions, on the CPU and on the device,
  in float32 and with the same random numbers; how far apart are the frames, in grey levels, after 1 step and after 8?
- **throughput**: frames per second of 1, 32 and 256 dreams, with the share of the device's own rate of matrix products;
- **trained**: a preset made for a GPU, trained for some minutes, compared with repeating the last frame. The world is
  in ``OUT/world`` in half precision, small enough to take home; ``dreamenv play`` and the other benchmarks take it;
- **peers**: public programs timed beside ours at their published sizes (`dreamenv.benchmarks.peers`), for each copy of
  one that is given: ``--peers diamond=PATH nwm=PATH``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
import tyro

from dreamenv.benchmarks import throughput
from dreamenv.benchmarks.common import envelope, print_table, write_json
from dreamenv.benchmarks.peers.__main__ import main as compare_with_peer
from dreamenv.benchmarks.training_time import steps_in
from dreamenv.data import EpisodeDataset
from dreamenv.devices import find_device
from dreamenv.dream.chunking import frame_by_frame
from dreamenv.errors import ConfigError
from dreamenv.frames import frames_to_numpy
from dreamenv.metrics.verdict import fidelity_verdict
from dreamenv.presets import backbone_names, make_config, preset_names
from dreamenv.training import TrainConfig, train
from dreamenv.world_model import WorldModel, WorldModelSpec

__all__ = ["GPU", "main", "run"]

_ROWS, _COMPARED = 4, (1, 8)  # dreams, and steps after which they are compared


@dataclass(frozen=True, kw_only=True)
class GPU:
    """What to measure.

    Attributes:
        data: recording to train on; None leaves training out.
        out: folder of the results and of the trained world.
        device: "cuda", "cuda:1"; "cpu" tries the script.
        presets: backbone:preset of the first two parts; empty for all.
        trained: backbone:preset of the third.
        minutes: of its training.
        batches: dreams at once.
        seconds: of one round of one preset's throughput.
        peers: public programs to time beside ours, each as SYSTEM=FOLDER.
    """

    data: Path | None = None
    out: Path = Path("runs/gpu")
    device: str = "cuda"
    presets: tuple[str, ...] = ()
    trained: str = "denoising:diffusion_forcing_like_base"
    minutes: float = 4.0
    batches: tuple[int, ...] = (1, 32, 256)
    seconds: float = 0.3
    peers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for peer in self.peers:
            system, _, folder = peer.partition("=")
            if not system or not Path(folder or "?").is_dir():
                raise ConfigError(f"peers must be SYSTEM=FOLDER, such as diamond=code/diamond, not {peer!r}.")
        for name in ("minutes", "seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, not {getattr(self, name)}.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    settings = tyro.cli(GPU, args=arguments, description=__doc__)
    print(f"wrote {run(settings)}")


def run(settings: GPU) -> Path:
    """Measure all parts; return the path of the results.

    Raises:
        DeviceError: no such device here; the message lists those there are.
        DatasetError: no recording at ``data``.
    """
    device = find_device(settings.device)
    recording = EpisodeDataset.open(settings.data) if settings.data is not None else None
    names = settings.presets or tuple(
        f"{backbone}:{preset}"
        for backbone in backbone_names()
        for preset in preset_names(backbone)
        if backbone != "persistence"
    )
    results: dict[str, Any] = {}

    def keep(part: str, values: Any) -> Path:
        results[part] = values
        described = {**asdict(settings), "data": str(settings.data), "out": str(settings.out)}
        return write_json(settings.out / "gpu.json", envelope("gpu", results, described))

    keep("equal", {name: _differences(name, device) for name in names})
    print_table(
        ("preset", *(f"largest difference after {step}, grey levels" for step in _COMPARED)),
        [(name, *(far[str(step)] for step in _COMPARED)) for name, far in results["equal"].items()],
    )
    measured = throughput.Throughput(
        presets=names, batches=settings.batches, device=settings.device, rounds=3, seconds=settings.seconds,
        precision="float32", waits=30,
    )  # fmt: skip
    path = keep("throughput", throughput.measure(measured))
    print_table(
        ("preset", "dreams", "frames/s", "of the matrix rate"),
        [
            (row["preset"], row["batch"], row["frames_per_second"], "-" if row["share"] is None else row["share"])
            for row in results["throughput"]["rows"]
        ],
    )
    if recording is not None:
        path = keep("trained", _train(settings, recording, device))
        print(results["trained"]["verdict"])
    for peer in settings.peers:
        system, _, folder = peer.partition("=")
        asked = [system, "--peer", folder, "--full", "--speed", "--no-parity", "--device", settings.device, "--compile"]
        path = keep("peers", {**results.get("peers", {}), system: compare_with_peer(asked)["results"]})
    return path


def _differences(name: str, device: torch.device) -> dict[str, int]:
    """Return the largest difference of frames on both devices after some steps, in grey levels."""
    backbone, _, preset = name.partition(":")
    spec = WorldModelSpec(frame_shape=(3, 64, 64), action_space=gym.spaces.Discrete(4), frame_rate=10.0)
    torch.manual_seed(0)
    model: Any = make_config(backbone, preset or None).build(spec).eval()
    frames = torch.rand(_ROWS, 3, 64, 64)
    actions = torch.randint(4, (_ROWS, _COMPARED[-1]))
    places = (torch.device("cpu"), device)
    here, there = (
        frames_to_numpy(_dream(model.to(place), frames.to(place), actions.to(place))).astype(int) for place in places
    )
    return {str(step): int(abs(here[:, step - 1] - there[:, step - 1]).max()) for step in _COMPARED}


@torch.inference_mode()
def _dream(model: WorldModel, frames: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """Return dreamt frames (rows, steps, c, h, w), on the CPU."""
    stepped = frame_by_frame(model)
    state = stepped.start(frames, torch.arange(len(frames), device=frames.device))
    dreamt = []
    for step in range(actions.shape[1]):
        imagined, state = stepped.imagine(state, actions[:, step : step + 1])
        assert imagined.frames is not None
        dreamt.append(imagined.frames.cpu())
    return torch.cat(dreamt, dim=1)


def _train(settings: GPU, recording: EpisodeDataset, device: torch.device) -> dict[str, Any]:
    backbone, _, preset = settings.trained.partition(":")
    config = make_config(backbone, preset or None)
    steps = steps_in(config, recording, 60 * settings.minutes, device)
    training = TrainConfig(
        steps=steps, device=settings.device, precision="float32" if device.type == "cpu" else "bfloat16",
        eval_every=0, checkpoint_every=10**9,
    )  # fmt: skip
    world = train(training, config, recording, settings.out / "run")
    world.save(settings.out / "world", half=True)
    return {
        "preset": settings.trained, "steps": steps, "seconds": world.record["seconds"], "metrics": world.metrics,
        "verdict": fidelity_verdict(world.metrics),
    }  # fmt: skip


if __name__ == "__main__":
    main()
