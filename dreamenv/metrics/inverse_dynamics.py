"""Inverse dynamics: a small network that tells from real frames which action was taken.

Given frames before the action and after it, the action between the last two. Trained on real frames, it judges dreams:
where it recognises fewer actions in a dream than in reality, the dream does not show what the action does.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Discrete
from torch import Tensor, nn

from dreamenv.data.dataset import EpisodeDataset
from dreamenv.data.store import FrameStore
from dreamenv.errors import ConfigError, DatasetError
from dreamenv.frames import frames_to_model
from dreamenv.storage import atomic_file, read_tensors, write_tensors

__all__ = [
    "FRAMES",
    "InverseDynamics",
    "InverseDynamicsConfig",
    "action_rows",
    "frames_before",
    "train_inverse_dynamics",
]

FRAMES = 3
"""Frames that the network sees: two before the action, for the speed that it is taken at, and the one after."""

_VERSION = 1  # of the network; another one is not read from the cache
_BLURS = (1, 1, 2, 4)  # of the frames that it is trained on, by chance
_DIGITS = 16
_REMEDY = "Delete it; it is trained again."


@dataclass(frozen=True, kw_only=True)
class InverseDynamicsConfig:
    """How the network is trained.

    Attributes:
        steps: of AdamW, with a learning rate that falls to 0 along a cosine.
        batch_size: actions per step.
        learning_rate: at the start.
        dropout: share of the features that are dropped.
        seed: of the weights and the batches.
    """

    steps: int = 1500
    batch_size: int = 32
    learning_rate: float = 1e-3
    dropout: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ConfigError(f"steps and batch_size must be at least 1, not {self.steps} and {self.batch_size}.")
        if not self.learning_rate > 0 or not 0 <= self.dropout < 1:
            raise ConfigError(
                f"learning_rate must be positive and dropout in [0, 1), not {self.learning_rate} and {self.dropout}."
            )


class InverseDynamics(nn.Module):
    """Frames (n, `FRAMES`, c, h, w) in [0, 1] -> logits of the action that led to the last one, (n, actions).

    Args:
        channels: of a frame.
        actions: how many there are.
        dropout: see `InverseDynamicsConfig`.
    """

    def __init__(self, channels: int, actions: int, dropout: float = 0.0) -> None:
        super().__init__()
        widths = (channels * (2 * FRAMES - 1), 16, 32, 48, 64)
        layers: list[nn.Module] = []
        for narrow, wide in itertools.pairwise(widths):
            layers += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1), nn.GroupNorm(8, wide), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(dropout))
        self.head = nn.Linear(16 * widths[-1], actions)

    def forward(self, frames: Tensor) -> Tensor:
        """Return the logits."""
        change = 4 * frames.diff(dim=1)  # what the action does is a difference, which is small
        logits: Tensor = self.head(self.layers(torch.cat((frames - 0.5, change), dim=1).flatten(1, 2)))
        return logits

    @torch.no_grad()
    def recognise(self, frames: npt.NDArray[np.uint8], batch: int = 256) -> npt.NDArray[np.int64]:
        """Return the likeliest actions (n,) of frames (n, `FRAMES`, h, w, c)."""
        self.eval()
        parts = [self(frames_to_model(frames[i : i + batch])).argmax(-1) for i in range(0, len(frames), batch)]
        return torch.cat(parts).numpy()


def train_inverse_dynamics(
    dataset: EpisodeDataset, config: InverseDynamicsConfig | None = None, *, cache: Path | None = None
) -> InverseDynamics:
    """Train the network on the CPU, or read the one that was trained on the same episodes in the same way.

    Args:
        dataset: real episodes, which it will not be tested on.
        config: how; None takes the defaults, about a minute on one core.
        cache: folder in which networks are kept, each named after a digest of all that it depends on; None keeps none.

    Raises:
        ConfigError: actions are not Discrete.
        DatasetError: there are no episodes, or none of two steps; or the network that was kept is damaged.
        StorageError: the disk refused.
    """
    config = config or InverseDynamicsConfig()
    space = dataset.action_space
    if not isinstance(space, Discrete):
        raise ConfigError(f"inverse dynamics needs Discrete actions, to be right or wrong about, not {space}.")
    store = FrameStore(dataset)
    network = _build(store, int(space.n), config)
    path = None if cache is None else cache / f"inverse-dynamics-{_digest(dataset, config)}.safetensors"
    if path is not None and path.exists():
        kept = read_tensors(path, DatasetError, _REMEDY)
        try:
            network.load_state_dict(kept)
        except RuntimeError as error:
            raise DatasetError(f"{path} holds another network. {_REMEDY}") from error
        return network.eval()
    _train(network, store, int(space.start), config)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as draft:
            write_tensors(draft, network.state_dict())
    return network.eval()


def _build(store: FrameStore, actions: int, config: InverseDynamicsConfig) -> InverseDynamics:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return InverseDynamics(store.frames.shape[-1], actions, config.dropout)


def _train(network: InverseDynamics, store: FrameStore, first_action: int, config: InverseDynamicsConfig) -> None:
    rows = action_rows(store)
    if not len(rows):
        raise DatasetError(
            f"no episode of {store.dataset.path} has {FRAMES - 1} steps, which inverse dynamics needs. Record longer."
        )
    random = np.random.default_rng((config.seed, 0x1D))
    optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    network.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        for _ in range(config.steps):
            chosen = random.choice(rows, config.batch_size)
            actions = torch.from_numpy(store.actions[chosen].astype(np.int64) - first_action)
            frames = _blur(frames_to_model(frames_before(store, chosen)), int(random.choice(_BLURS)))
            loss = nn.functional.cross_entropy(network(frames), actions)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def _blur(frames: Tensor, factor: int) -> Tensor:
    """Return frames shrunk and enlarged by a factor: an action in a blurred frame is still an action."""
    if factor == 1:
        return frames
    size = frames.shape[-2:]
    small = [max(1, side // factor) for side in size]
    shrunk = nn.functional.interpolate(frames.flatten(0, 1), small, mode="area")
    blurred: Tensor = nn.functional.interpolate(shrunk, size, mode="bilinear").unflatten(0, frames.shape[:2])
    return blurred


def action_rows(store: FrameStore) -> npt.NDArray[np.int64]:
    """Return the rows of a store whose frame an action led to, with enough frames of the episode before it.

    Left out is the last frame of an episode that terminated: it may be anything.
    """
    rows = [
        np.arange(start + FRAMES - 1, start + steps + (not store.terminated[start + steps]))
        for start, steps in zip(store.starts, store.lengths, strict=True)
    ]
    return np.concatenate(rows).astype(np.int64)


def frames_before(store: FrameStore, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Return the `FRAMES` frames that end at each of the rows, (n, `FRAMES`, h, w, c)."""
    frames: npt.NDArray[np.uint8] = store.frames[rows[:, None] + np.arange(1 - FRAMES, 1)]
    return frames


def _digest(dataset: EpisodeDataset, config: InverseDynamicsConfig) -> str:
    key = json.dumps([_VERSION, FRAMES, dataset.content_hash(), asdict(config)], sort_keys=True)
    return hashlib.sha256(key.encode()).hexdigest()[:_DIGITS]
