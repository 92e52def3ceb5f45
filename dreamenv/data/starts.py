"""Start segments: short real segments from which dreams start, stored in a world's folder.

A segment is a first frame and the steps that followed it. A dream continues after its last frame, which never
terminates an episode. On disk: ``frames.npy.zst`` (lossless, about 2.6 kB per 64x64 frame of Doom), ``segments.npz``.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dreamenv.action_layout import ActionLayout
from dreamenv.checks import check_number, check_whole
from dreamenv.data.checks import no_rewards
from dreamenv.data.dataset import EpisodeDataset
from dreamenv.errors import ActionError, DatasetError, FrameError, WorldDamagedError
from dreamenv.storage import npy_bytes, read_npy, read_npz, refuse_malformed, write_file

__all__ = ["Starts"]

_FRAMES, _SEGMENTS = "frames.npy.zst", "segments.npz"
_COMPRESSION_LEVEL = 12  # 0.7 ms and 2.6 kB a frame; level 19: 7 ms and 2.2 kB
_MAX_BYTES = (
    2**28
)  # that are unpacked from any archive, and how often its size from a larger one; Doom unpacks to 5 times
_MAX_RATIO = 1000
_EPISODE_START_SHARE = 0.25  # of the segments, to compare dreams with whole real episodes


@dataclass(frozen=True, kw_only=True, eq=False)
class Starts:
    """n segments of up to t steps.

    Attributes:
        first_frames: (n, h, w, c) uint8.
        actions: (n, t, *a) int64 or float32; ``actions[:, i]`` led to ``frames[:, i]``.
        frames: (n, t, h, w, c) uint8.
        lengths: (n,) int64, the number of recorded steps, at least 0; the last one is repeated up to t.
        at_episode_start: (n,) bool, whether the first frame is the first of an episode.

    Raises:
        FrameError: the shapes of the arrays do not match.
    """

    first_frames: npt.NDArray[np.uint8]
    actions: npt.NDArray[Any]
    frames: npt.NDArray[np.uint8]
    lengths: npt.NDArray[np.int64]
    at_episode_start: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        n, t = self.frames.shape[:2]
        shape = self.first_frames.shape
        if len(shape) != 4 or self.frames.shape != (n, t, *shape[1:]) or shape[0] != n:
            raise FrameError(
                f"first_frames {shape} and frames {self.frames.shape} must be (n, h, w, c), (n, t, h, w, c)."
            )
        if self.frames.dtype != np.uint8 or self.first_frames.dtype != np.uint8:
            raise FrameError(f"frames must be uint8, not {self.first_frames.dtype} and {self.frames.dtype}.")
        if self.actions.shape[:2] != (n, t) or self.lengths.shape != (n,) or self.at_episode_start.shape != (n,):
            raise FrameError(
                f"{n} segments of {t} steps need actions ({n}, {t}, ...), lengths ({n},) and at_episode_start ({n},), "
                f"not {self.actions.shape}, {self.lengths.shape}, {self.at_episode_start.shape}."
            )
        if n and not (self.lengths.min() >= 0 and self.lengths.max() <= t):
            raise FrameError(f"lengths must be in 0 … {t}, not {self.lengths.min()} … {self.lengths.max()}.")

    @classmethod
    def from_dataset(
        cls,
        dataset: EpisodeDataset,
        *,
        count: int,
        context: int,
        seed: int,
        episode_starts_only: bool = False,
        before_reward: float = 0.0,
        max_steps_to_reward: int = 64,
    ) -> Starts:
        """Sample segments of recorded episodes.

        A quarter of them are the first steps of different episodes (all of them, with ``episode_starts_only``), as far
        as there are; a piece that goes on where a limit of steps ended the one before is no episode's start. The others
        end at steps sampled uniformly from all that do not terminate an episode, and are shorter than ``context`` only
        near the start of an episode or piece.

        Where rewards are rare, an untrained policy gets hardly any. With ``before_reward``, a share of the segments
        ends a few steps before one, so that the policy learns from there to ever earlier starts (a reverse curriculum,
        Florensa et al. 2017).

        Args:
            dataset: the recording.
            count: n, at least 1; fewer are returned if the recording has fewer.
            context: t, the steps that initialise a dream's state, at least 0.
            seed: at least 0.
            episode_starts_only: take first steps of episodes only.
            before_reward: share of the segments, at most 0.75, that end before a positive reward; fewer if the
                recording has fewer.
            max_steps_to_reward: the most steps from the end of such a segment to the reward, at least 1.

        Raises:
            DatasetError: the dataset has no episodes, with ``episode_starts_only`` no start of one, or with
                ``before_reward`` no positive reward after a first step.
        """
        count, context = check_whole("count", count), check_whole("context", context, least=0)
        seed = check_whole("seed", seed, least=0, most=2**63 - 1)
        before_reward = check_number("before_reward", before_reward, least=0, most=1 - _EPISODE_START_SHARE)
        max_steps_to_reward = check_whole("max_steps_to_reward", max_steps_to_reward)
        if len(dataset) == 0:
            raise DatasetError(f"{dataset.path} has no episodes to start from. Record some with: dreamenv collect")
        random = np.random.default_rng((seed, 0x57A7))
        segments = _episode_starts(
            dataset, count if episode_starts_only else _episode_start_count(count), context, random
        )
        if episode_starts_only and not segments:
            raise DatasetError(
                f"none of the {len(dataset)} episodes of {dataset.path} here begins with a reset: they are pieces of "
                "longer ones. Begin dreams anywhere, or record from the start."
            )
        if not episode_starts_only:
            if before_reward > 0:
                found = _before_rewards(dataset, round(before_reward * count), context, max_steps_to_reward, random)
                if found is None:
                    raise no_rewards("before_reward", before_reward, dataset.path)
                segments += found
            segments += _random_segments(dataset, count - len(segments), context, random)
        return _read_segments(dataset, sorted(segments), context)

    def __len__(self) -> int:
        """Return n."""
        return len(self.first_frames)

    def __getitem__(self, indices: Any) -> Starts:
        """Return some of the segments, given a slice or an array of indices or booleans."""
        if isinstance(indices, int | np.integer):
            raise TypeError(f"starts are indexed by a slice or an array, not by {indices}; use [[{indices}]].")
        return Starts(**{name: getattr(self, name)[indices] for name in self.__dataclass_fields__})

    def __repr__(self) -> str:
        return (
            f"Starts(segments={len(self)}, steps={self.frames.shape[1]}, frames={self.frames.shape[2:]} uint8, "
            f"at_episode_start={int(self.at_episode_start.sum())})"
        )

    def save(self, folder: str | Path) -> None:
        """Write into a folder, which is created if needed.

        Raises:
            StorageError: the disk could not be written.
        """
        folder = Path(folder)
        clips = np.concatenate((self.first_frames[:, None], self.frames), axis=1)
        segments = io.BytesIO()
        np.savez(segments, actions=self.actions, lengths=self.lengths, at_episode_start=self.at_episode_start)
        write_file(folder / _FRAMES, pa.Codec("zstd", _COMPRESSION_LEVEL).compress(npy_bytes(clips), asbytes=True))
        write_file(folder / _SEGMENTS, segments.getvalue())

    @classmethod
    def load(cls, folder: str | Path) -> Starts:
        """Read segments written by `save`.

        Raises:
            WorldDamagedError: a file is missing or damaged.
        """
        folder = Path(folder)
        remedy = f"Restore {_FRAMES} and {_SEGMENTS} from a copy."
        with refuse_malformed(WorldDamagedError, f"the starts in {folder}", remedy):
            room = max(_MAX_BYTES, _MAX_RATIO * (folder / _FRAMES).stat().st_size)
            with pa.CompressedInputStream(pa.OSFile(str(folder / _FRAMES)), "zstd") as stream:
                clips = read_npy(stream, room)
            rest = read_npz((folder / _SEGMENTS).read_bytes(), ("actions", "lengths", "at_episode_start"))
            if rest["lengths"].dtype.kind != "i" or rest["at_episode_start"].dtype != np.bool_:
                raise ValueError("lengths must be integers, and at_episode_start booleans")
            return cls(first_frames=clips[:, 0], frames=clips[:, 1:], **rest)

    def check_fits(self, frame_shape: tuple[int, int, int], layout: ActionLayout) -> None:
        """Check that the segments are of frames (c, h, w) and of actions of a layout.

        Raises:
            FrameError, ActionError: they are of others.
        """
        channels, height, width = frame_shape
        if self.first_frames.shape[1:] != (height, width, channels):
            raise FrameError(f"the starts' frames are {self.first_frames.shape[1:]}, and the world's {frame_shape}.")
        actions = self.actions.reshape(-1, *self.actions.shape[2:])
        if actions.shape[1:] != layout.shape or actions.dtype != layout.dtype or not layout.inside(actions).all():
            raise ActionError(f"the starts' actions {actions.shape} {actions.dtype} are not of {layout.space}.")


_Segment = tuple[int, int, int]  # episode, first frame, steps


def _episode_start_count(count: int) -> int:
    return max(1, round(_EPISODE_START_SHARE * count))


def _episode_starts(dataset: EpisodeDataset, count: int, context: int, random: np.random.Generator) -> list[_Segment]:
    beginnings = np.flatnonzero([record.at_episode_start for record in dataset.records])
    chosen = random.permutation(beginnings)[:count]
    return [(int(e), 0, min(context, _usable(dataset, int(e)))) for e in chosen]


def _random_segments(dataset: EpisodeDataset, count: int, context: int, random: np.random.Generator) -> list[_Segment]:
    """Sample segments of at least 1 step that end at steps that do not terminate an episode, uniformly."""
    ends = np.cumsum([_usable(dataset, e) for e in range(len(dataset))])
    chosen = random.choice(ends[-1], size=min(count, int(ends[-1])), replace=False)
    episodes = np.searchsorted(ends, chosen, side="right")
    segments = []
    for episode, number in zip(episodes.tolist(), chosen.tolist(), strict=True):
        last = number - (int(ends[episode - 1]) if episode else 0) + 1
        steps = min(context, last)
        segments.append((episode, last - steps, steps))
    return segments


def _before_rewards(
    dataset: EpisodeDataset, count: int, context: int, max_steps_to_reward: int, random: np.random.Generator
) -> list[_Segment] | None:
    """Sample segments that end 1 to ``max_steps_to_reward`` steps before a positive reward; None if there is none."""
    ends = []
    for number, episode in enumerate(dataset):
        distance = max_steps_to_reward
        for last in range(len(episode) - 1, 0, -1):  # from a segment that ends at frame i, a dream starts with step i
            distance = 1 if episode.rewards[last] > 0 else distance + 1
            if distance <= max_steps_to_reward:
                ends.append((number, last))
    if not ends:
        return None
    chosen = random.permutation(len(ends))[:count]
    return [(number, max(0, last - context), min(context, last)) for number, last in (ends[i] for i in chosen)]


def _usable(dataset: EpisodeDataset, episode: int) -> int:
    """Return the number of the last step of an episode after which it continues."""
    record = dataset.records[episode]
    return record.steps - int(record.terminated)


def _read_segments(dataset: EpisodeDataset, segments: list[_Segment], context: int) -> Starts:
    n, layout = len(segments), dataset.action_layout
    clips = np.zeros((n, context + 1, *dataset.frame_shape), np.uint8)
    actions = np.zeros((n, context, *layout.shape), layout.dtype)
    previous, read = None, -1
    for row, (number, first, steps) in enumerate(segments):
        if previous is None or number != read:  # segments are sorted, so each episode is read once
            previous, read = dataset[number], number
        clips[row, : steps + 1] = previous.frames[first : first + steps + 1]
        clips[row, steps + 1 :] = clips[row, steps]
        actions[row, :steps] = previous.actions[first : first + steps]
        actions[row, steps:] = actions[row, max(steps - 1, 0)] if steps else previous.actions[0]
    return Starts(
        first_frames=clips[:, 0],
        actions=actions,
        frames=clips[:, 1:],
        lengths=np.array([steps for _, _, steps in segments], np.int64),
        at_episode_start=np.array(
            [first == 0 and dataset.records[number].at_episode_start for number, first, _ in segments], np.bool_
        ),
    )
