"""A trained pixel head in a folder of its own: written in one step, checked when it is read, bound to its world.

::

    pixel_head.json         settings, the hash of the world, how it was trained, the hash of the other file
    pixel_head.safetensors  parameters, in half precision
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamenv.checks import check_path
from dreamenv.compression.pixel_head import PixelHead, PixelHeadConfig
from dreamenv.errors import CompressionDamagedError, CompressionError, StorageError, WorldMismatchError
from dreamenv.storage import FolderFormat, build_for_weights, read_shapes, read_tensors, refuse_malformed, write_tensors
from dreamenv.world import World

__all__ = ["HEAD_FOLDER", "TrainedHead"]

HEAD_FOLDER = "pixel_head"
"""The folder, beside or in that of its world, in which a head is looked for."""

_WEIGHTS, _REMEDY = "pixel_head.safetensors", "Copy it again, or train it again with: dreamenv pixels"
_FORMAT = FolderFormat(
    kind="pixel head",
    manifest="pixel_head.json",
    version=1,
    missing=CompressionError,
    damaged=CompressionDamagedError,
    newer=CompressionError,
    remedy=_REMEDY,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedHead:
    """A pixel head, and the world whose dreams it was trained on.

    Attributes:
        model: the head, in evaluation mode, its parameters as half precision holds them.
        world_hash: `World.content_hash` of the world.
        record: how it was trained (JSON values).
    """

    model: PixelHead
    world_hash: str
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The SHA-256 of settings and parameters, 64 hexadecimal digits."""
        digest = hashlib.sha256(repr((self.model.config, self.model.frame_shape)).encode())
        for name, value in sorted(_half(self.model).items()):
            digest.update(f"{name}{tuple(value.shape)}".encode() + value.numpy().tobytes())
        return digest.hexdigest()

    @property
    def bytes(self) -> int:
        """What its parameters take in half precision."""
        return sum(2 * value.numel() for value in self.model.parameters())

    def check_world(self, world: World) -> None:
        """Raise WorldMismatchError unless this is the world that the head was trained for."""
        found = world.content_hash()
        if found != self.world_hash:
            raise WorldMismatchError(
                f"the pixel head was trained for another world: its hash is {self.world_hash[:16]}..., this one's "
                f"{found[:16]}.... Train one for this world with: dreamenv pixels"
            )

    @staticmethod
    def check_free(path: str | Path) -> None:
        """Raise StorageError unless `save` may write there."""
        _FORMAT.check_free(check_path("where to save the pixel head", path, error=StorageError))

    def save(self, path: str | Path) -> Path:
        """Write it to a folder, replacing a head that is there, or change nothing.

        Raises:
            StorageError: the disk refused, or something that is no head is in the way.
        """
        path = check_path("where to save the pixel head", path, error=StorageError)
        _FORMAT.write(path, self._write)
        return path

    @classmethod
    def load(cls, path: str | Path) -> TrainedHead:
        """Read what `save` wrote.

        Raises:
            CompressionError: there is none, or it was written by a newer dreamenv.
            CompressionDamagedError: it is damaged.
        """
        path = check_path("where a pixel head is", path, error=CompressionError)
        if not path.is_dir():
            raise CompressionError(f"there is no pixel head at {path}. Train one with: dreamenv pixels")
        values, what = _FORMAT.read(path), f"the pixel head in {path}"
        with refuse_malformed(CompressionDamagedError, what, _REMEDY):
            settings: dict[str, Any] = {
                name: tuple(v) if isinstance(v, list) else v for name, v in values["config"].items()
            }
            c, h, w = values["frame_shape"]
            config, shapes = PixelHeadConfig(**settings), read_shapes(path / _WEIGHTS, CompressionDamagedError, _REMEDY)

            def misfit(why: str) -> CompressionDamagedError:
                return CompressionDamagedError(f"{what} does not fit its own description: {why}. {_REMEDY}")

            model = build_for_weights(lambda: PixelHead(config, (c, h, w)), shapes, lambda m: m.state_dict(), misfit)
            model.load_state_dict(read_tensors(path / _WEIGHTS, CompressionDamagedError, _REMEDY))
            return cls(model=model.eval(), world_hash=str(values["world"]), record=dict(values["record"]))

    def _write(self, folder: Path) -> dict[str, Any]:
        write_tensors(folder / _WEIGHTS, _half(self.model))
        return {
            "world": self.world_hash,
            "config": dataclasses.asdict(self.model.config),
            "frame_shape": list(self.model.frame_shape),
            "record": self.record,
        }


def _half(model: PixelHead) -> dict[str, Tensor]:
    return {name: value.detach().to(torch.float16) for name, value in model.state_dict().items()}
