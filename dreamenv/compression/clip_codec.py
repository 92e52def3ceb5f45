"""A clip of real frames to bytes and back, by a world and its pixel head: the same pixels, or an error."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dreamenv.compression.actions import pack_actions, unpack_actions
from dreamenv.compression.coders import Coder, Counter, Decoder, Encoder
from dreamenv.compression.container import ClipHeader, content_digest, pack_clip, unpack_clip
from dreamenv.compression.frame_codec import FrameCodec
from dreamenv.compression.head_files import TrainedHead
from dreamenv.compression.threads import arithmetic, one_thread
from dreamenv.data.checks import check_actions
from dreamenv.errors import (
    CompressionDamagedError,
    CompressionError,
    ConfigError,
    FrameError,
    WorldError,
    WorldMismatchError,
)
from dreamenv.world import World

__all__ = ["Clip", "CodedClip", "compress", "decompress", "ideal_bits"]

Progress = Callable[[int], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """Frames and the actions between them.

    Attributes:
        frames: (t + 1, h, w, c) uint8.
        actions: (t, *a) int64 or float32; ``actions[i]`` led to ``frames[i + 1]``.

    Raises:
        FrameError: frames of another type or shape, or fewer than two, or not one more than actions.
    """

    frames: npt.NDArray[np.uint8]
    actions: npt.NDArray[Any]

    def __post_init__(self) -> None:
        if self.frames.ndim != 4 or self.frames.dtype != np.uint8:
            raise FrameError(f"a clip's frames must be (t + 1, h, w, c) uint8, not {self.frames.shape} "
                             f"{self.frames.dtype}.")  # fmt: skip
        if len(self.frames) < 2:
            raise FrameError(f"a clip needs at least one step: an action and two frames, not {len(self.frames)}.")
        if len(self.frames) != len(self.actions) + 1:
            raise FrameError(
                f"{len(self.frames)} frames need {len(self.frames) - 1} actions, not {len(self.actions)}: action i "
                "leads from frame i to frame i + 1."
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class CodedClip:
    """A compressed clip.

    Attributes:
        content: of the file.
        ideal_bits: what a perfect coder would have written for the pixels.
        pixel_bits, action_bits: what was.
        seconds: it took.
    """

    content: bytes
    ideal_bits: float
    pixel_bits: int
    action_bits: int
    seconds: float


def compress(
    clip: Clip, world: World, head: TrainedHead, *, with_actions: bool = True, progress: Progress | None = None
) -> CodedClip:
    """Compress a clip.

    Args:
        clip: frames and actions of the world's kind.
        world: on the CPU.
        head: trained for this world.
        with_actions: put the actions into the file; else whoever decodes it must have them.
        progress: called with the number of frames coded, after each.

    Raises:
        FrameError, ActionError: the clip is not of the world's kind.
        WorldMismatchError: the head was trained for another world.
        MissingDependencyError: constriction is not installed.
    """
    began = time.perf_counter()
    encoder = Encoder()
    start = _walk(clip, world, head, encoder, progress)
    packed, pixels = pack_actions(clip.actions), encoder.content()
    header = ClipHeader(
        frames=len(clip.frames),
        shape=tuple(clip.frames.shape[1:]),
        start=start,
        world=head.world_hash,
        head=head.digest,
        content=content_digest(clip.frames, clip.actions),
        actions=packed if with_actions else None,
        arithmetic=arithmetic(),
    )
    return CodedClip(
        content=pack_clip(header, pixels),
        ideal_bits=encoder.ideal_bits,
        pixel_bits=8 * len(pixels),
        action_bits=8 * len(packed) if with_actions else 0,
        seconds=time.perf_counter() - began,
    )


def ideal_bits(clip: Clip, world: World, head: TrainedHead, *, progress: Progress | None = None) -> float:
    """Return what a perfect coder would write for a clip's pixels, in bits; arguments as of `compress`."""
    counter = Counter()
    _walk(clip, world, head, counter, progress)
    return counter.ideal_bits


def decompress(
    content: bytes,
    world: World,
    head: TrainedHead,
    *,
    name: str = "the file",
    actions: npt.NDArray[Any] | None = None,
    progress: Progress | None = None,
) -> Clip:
    """Return the clip that was compressed, pixel by pixel.

    Args:
        content: of the file.
        world, head: those that compressed it.
        name: of the file, for errors.
        actions: (t, *a), those of the clip, if they are not in the file.
        progress: called with the number of frames decoded, after each.

    Raises:
        CompressionDamagedError: it was cut short or altered.
        CompressionError: it is no compressed clip, of a newer version, or written on a machine that computes otherwise.
        WorldMismatchError: it was compressed by another world or head.
        ConfigError: its actions are not in the file and were not given, or the other way round.
    """
    header, pixels = unpack_clip(content, name)
    _check_world(header, world, head, name)
    steps, layout = header.frames - 1, world.spec.action_layout
    if (header.actions is None) == (actions is None):
        has = "lacks its actions; give" if actions is None else "has its own actions; do not give"
        raise ConfigError(f"{name} {has} them with --actions.")
    if header.actions is not None:
        actions = unpack_actions(header.actions, steps, layout)
    assert actions is not None
    if len(actions) != steps:
        raise ConfigError(f"{name} has {steps} steps, and {len(actions)} actions were given.")
    check_actions(actions, layout)
    if header.start >= len(world.starts):
        raise CompressionDamagedError(f"{name} names start {header.start} of {len(world.starts)}.")
    with one_thread():
        codec = FrameCodec(head.model, world.model, Decoder(pixels), world.starts.first_frames[header.start])
        frames, rows = [], torch.from_numpy(actions)[None]
        try:
            frames.append(codec.first(None))
            for i in range(steps):
                frames.append(codec.next(rows[:, i : i + world.spec.chunk], None))
                if progress is not None:
                    progress(len(frames))
        except CompressionDamagedError as error:  # the file is whole, as its checksum has shown
            raise _computed_otherwise(name, header) from error
    clip = Clip(frames=np.stack(frames), actions=actions)
    if content_digest(clip.frames, clip.actions) != header.content:
        raise _computed_otherwise(name, header)
    return clip


def _computed_otherwise(name: str, header: ClipHeader) -> CompressionError:
    return CompressionError(
        f"{name} does not decode to what it was made of, so nothing was written: it was computed with "
        f"{header.arithmetic}, here there is {arithmetic()}. Decode it with the versions and on the kind of "
        "machine that it was made with; where actions were given, with those."
    )


def _walk(clip: Clip, world: World, head: TrainedHead, coder: Coder, progress: Progress | None) -> int:
    """Put a clip through a coder; returns which of the world's start frames the first one was predicted from."""
    head.check_world(world)
    _check_clip(clip, world)
    starts = world.starts.first_frames
    distances = [int(np.abs(start.astype(np.int16) - clip.frames[0]).sum()) for start in starts]
    nearest = int(np.argmin(distances))
    with one_thread():
        codec = FrameCodec(head.model, world.model, coder, starts[nearest])
        codec.first(clip.frames[0])
        actions = torch.from_numpy(np.ascontiguousarray(clip.actions))[None]
        for i in range(len(clip.actions)):
            codec.next(actions[:, i : i + world.spec.chunk], clip.frames[i + 1])
            if progress is not None:
                progress(i + 2)
    return nearest


def _check_clip(clip: Clip, world: World) -> None:
    c, h, w = world.spec.frame_shape
    if clip.frames.shape[1:] != (h, w, c):
        raise FrameError(
            f"the clip's frames are {clip.frames.shape[1:]}, those of the world {(h, w, c)} (h, w, c). Record or "
            "convert it at that size."
        )
    check_actions(clip.actions, world.spec.action_layout)
    if len(world.starts) == 0:
        raise WorldError("the world has no start frames, from one of which a clip's first frame is predicted.")
    if world.device.type != "cpu":
        raise ConfigError(
            f"clips are coded on the CPU, where sums are always the same; the world is on {world.device}."
        )


def _check_world(header: ClipHeader, world: World, head: TrainedHead, name: str) -> None:
    head.check_world(world)
    for what, wanted, given in (("world", header.world, head.world_hash), ("pixel head", header.head, head.digest)):
        if wanted != given:
            raise WorldMismatchError(
                f"{name} was compressed by another {what}: its hash is {wanted[:16]}..., this one's {given[:16]}.... "
                f"Give the {what} that compressed it."
            )
    c, h, w = world.spec.frame_shape
    if header.shape != (h, w, c):
        raise CompressionDamagedError(f"{name} names frames of {header.shape}, and the world has {(h, w, c)}.")
