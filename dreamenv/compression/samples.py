"""What a pixel head learns from: recorded frames, their pasts, dreams and matches, all computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dreamenv.compression.alignment import Alignment
from dreamenv.compression.frame_codec import stack_past
from dreamenv.compression.pixel_head import PixelHead
from dreamenv.compression.predictions import Predictor
from dreamenv.data.dataset import EpisodeDataset
from dreamenv.data.episode import Episode
from dreamenv.world import World

__all__ = ["FrameSamples", "draw_samples"]

_ROWS = 16  # episodes dreamt side by side
_ALIGNED = 16  # frames aligned at once
_STEPS = 64  # of an episode at most, from a random place on, so that many episodes are seen


@dataclass(frozen=True, eq=False)
class FrameSamples:
    """n frames, as a head is given them.

    Attributes:
        frames: (n, c, h, w) uint8.
        past: (n, r, c, h, w) uint8, the latest first.
        dreams: (n, c, h, w) uint8.
        alignments: of all frames, one per stage of the head.
    """

    frames: Tensor
    past: Tensor
    dreams: Tensor
    alignments: Sequence[Alignment]

    def __len__(self) -> int:
        """Return n."""
        return len(self.frames)

    def at(self, rows: Tensor) -> FrameSamples:
        """Return the frames of these numbers (k,) int64."""
        found = [Alignment(a.cell, a.frame[rows].long(), a.shift[rows].long(), a.cost[rows].float())
                 for a in self.alignments]  # fmt: skip
        return FrameSamples(self.frames[rows], self.past[rows], self.dreams[rows], found)


@torch.inference_mode()
def draw_samples(
    head: PixelHead,
    world: World,
    dataset: EpisodeDataset,
    *,
    count: int,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> FrameSamples:
    """Take frames of pieces of random episodes until there are enough.

    Args:
        head: whose settings say what goes with a frame.
        world: dreams them.
        dataset: the recording.
        count: n at most; fewer if the recording has fewer.
        seed: of the choice.
        progress: called with how many there are, now and then.
    """
    random = np.random.default_rng(seed)
    order, parts, found = random.permutation(len(dataset)).tolist(), [], 0
    while order and found < count:
        rows, order = order[:_ROWS], order[_ROWS:]
        pieces = [_piece(dataset[row], random) for row in rows]
        for frames, past, dreams in _dream(head, world, pieces):
            parts.append((frames, past, dreams))
            found += len(frames)
        if progress is not None:
            progress(min(found, count))
    columns = [torch.cat(column)[:count] for column in zip(*parts, strict=True)]
    return FrameSamples(columns[0], columns[1], columns[2], _alignments(head, *columns))


def _piece(episode: Episode, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return frames (t + 1, c, h, w) and actions (t, *a) of a piece of an episode."""
    first = int(random.integers(max(1, len(episode) - _STEPS + 1)))
    frames = torch.from_numpy(np.ascontiguousarray(episode.frames[first : first + _STEPS + 1]))
    return frames.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(np.ascontiguousarray(
        episode.actions[first : first + _STEPS]))  # fmt: skip


def _dream(
    head: PixelHead, world: World, pieces: Sequence[tuple[Tensor, Tensor]]
) -> Sequence[tuple[Tensor, Tensor, Tensor]]:
    """Return frames, pasts and dreams of every piece; all are dreamt at once, the shorter ones filled up."""
    steps = max(len(actions) for _, actions in pieces)

    def filled(values: Tensor, length: int) -> Tensor:
        return torch.cat((values, values[-1:].expand(length - len(values), *values.shape[1:])))

    frames = torch.stack([filled(values, steps + 1) for values, _ in pieces])
    actions = torch.stack([filled(values, steps) for _, values in pieces])
    predictor, dreams, past = Predictor(world.model, frames[:, 0]), [], []
    for i in range(steps):
        dreams.append(predictor.predict(actions[:, i : i + world.spec.chunk]))
        predictor.observe(actions[:, i], frames[:, i + 1])
        past.append(stack_past([frames[:, j] for j in range(i, -1, -1)][: head.config.past], head.config.past))
    every, pasts = torch.stack(dreams, dim=1), torch.stack(past, dim=1)
    return [
        (frames[row, 1 : len(one) + 1], pasts[row, : len(one)], every[row, : len(one)])
        for row, (_, one) in enumerate(pieces)
    ]


def _alignments(head: PixelHead, frames: Tensor, past: Tensor, dreams: Tensor) -> Sequence[Alignment]:
    """Return all frames' alignments, in small numbers."""
    parts = [
        [head.align(stage, f.float(), p, d) for stage in range(head.stages)]
        for f, p, d in zip(frames.split(_ALIGNED), past.split(_ALIGNED), dreams.split(_ALIGNED), strict=True)
    ]
    return [
        Alignment(
            column[0].cell,
            torch.cat([one.frame.to(torch.uint8) for one in column]),
            torch.cat([one.shift.to(torch.int8) for one in column]),
            torch.cat([one.cost for one in column]),
        )
        for column in zip(*parts, strict=True)
    ]
