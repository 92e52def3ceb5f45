"""A world: a trained model, its provenance, and the real segments its dreams start from, in one folder."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dreamenv.checks import check_path
from dreamenv.data.provenance import Provenance
from dreamenv.data.spaces import space_from_json, space_to_json
from dreamenv.data.starts import Starts
from dreamenv.devices import find_device
from dreamenv.errors import (
    ConfigError,
    StorageError,
    UnknownNameError,
    WorldDamagedError,
    WorldVersionError,
)
from dreamenv.folders import find_world_folder
from dreamenv.model_card import make_model_card
from dreamenv.parts import part_from_json, part_to_json
from dreamenv.shipped import DEFAULT_WORLD, shipped_worlds
from dreamenv.storage import build_for_weights, read_shapes, read_tensors, refuse_malformed, write_tensors
from dreamenv.world_files import CARD, MODEL, REMEDY, STARTS, WORLD, read_description
from dreamenv.world_model import BackboneConfig, WorldModel, WorldModelSpec

__all__ = ["World"]


@dataclass(eq=False)
class World:
    """A world.

    Attributes:
        model: the trained model.
        config: the configuration it was built from.
        starts: short real segments that dreams start from.
        provenance: the real environment it was recorded from; None if there is none.
        record: how it was made (JSON values).
        metrics: how well it does (JSON values).
    """

    model: WorldModel
    config: BackboneConfig
    starts: Starts
    provenance: Provenance | None = None
    record: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def spec(self) -> WorldModelSpec:
        """The world's frames and actions."""
        return self.model.spec

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return next((value.device for value in _tensors(self.model).values()), torch.device("cpu"))

    @functools.cached_property
    def fingerprint(self) -> int:
        """A 63-bit hash of the model, by which dreams recognise their states. Computed once, on first use."""
        return int(self._model_hash().hexdigest()[:16], 16) >> 1

    def content_hash(self) -> str:
        """Return the SHA-256 of everything that dreams depend on: model, spec, provenance and starts."""
        digest = self._model_hash()
        digest.update(_canonical(_provenance_to_json(self.provenance)))
        starts = self.starts
        for array in (starts.first_frames, starts.actions, starts.frames, starts.lengths, starts.at_episode_start):
            digest.update(f"{array.shape}{array.dtype}".encode() + np.ascontiguousarray(array).tobytes())
        return str(digest.hexdigest())

    def save(self, path: str | Path, *, half: bool = False) -> Path:
        """Write the world to a folder, replacing a world that is there, or change nothing.

        Args:
            path: the folder.
            half: write parameters in half precision: half the size, about three digits. They are read back as float32.

        Returns:
            The folder.

        Raises:
            StorageError: the disk refused, or something that is no world is in the way.
        """
        path = check_path("where to save the world", path, error=StorageError)
        WORLD.write(path, functools.partial(self._write, name=path.name, half=half))
        return path

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> World:
        """Read a world.

        Args:
            path: a world's folder, or that of the run that trained it; ``hf://owner/name`` or
                ``hf://owner/name@revision``; the name of a world that ships with dreamenv, or "default".
            device: where to put the model.

        Raises:
            WorldNotFoundError, WorldDamagedError, WorldVersionError, DeviceError: see `dreamenv.errors`.
        """
        place = find_device(device)
        folder = find_world_folder(path)
        description = read_description(folder, shipped_worlds())
        spec, provenance = _read_spec(folder, description), _read_provenance(folder, description)
        config, model = _read_model(folder, description, spec)
        with refuse_malformed(WorldDamagedError, f"what {folder} holds does not fit its own description: it", REMEDY):
            model.load_state_dict(read_tensors(folder / MODEL, WorldDamagedError, REMEDY))  # converts half precision
            starts = Starts.load(folder / STARTS)
            starts.check_fits(spec.frame_shape, spec.action_layout)
        model.eval().to(place)
        return cls(model, config, starts, provenance, description.get("record", {}), description.get("metrics", {}))

    @classmethod
    def default(cls, device: str | torch.device = "cpu") -> World:
        """Read the world that ships with dreamenv, of ViZDoom's TakeCover.

        Its rewards are counted in tics of 1/35 s: a step pays 4 for the 4 tics survived, and 3 per point of health
        gained or lost (``reward="health"``).
        """
        return cls.load(shipped_worlds()[DEFAULT_WORLD], device)

    def push_to_hub(self, repo_id: str, *, private: bool = False, half: bool = False) -> str:
        """Upload the world to ``repo_id`` ("owner/name") of the Hugging Face Hub, which `load` reads as hf://owner/name.

        Returns:
            The address of the upload.
        """
        import tempfile

        from huggingface_hub import HfApi

        hub = HfApi()
        hub.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            path = self.save(Path(folder) / repo_id.rsplit("/", 1)[-1], half=half)
            return str(hub.upload_folder(repo_id=repo_id, folder_path=path, commit_message="Upload world"))

    def to(self, device: str | torch.device) -> World:
        """Move the model to a device; returns self."""
        assert isinstance(self.model, nn.Module)
        self.model.to(find_device(device))
        return self

    def __repr__(self) -> str:
        environment = self.provenance.environment_id if self.provenance else None
        parameters = sum(value.numel() for value in _tensors(self.model).values())
        return (
            f"World({type(self.model).__name__} of {environment}, frames {self.spec.frame_shape}, "
            f"{self.spec.action_space}, {parameters:,} parameters, {len(self.starts)} starts, {self.device})"
        )

    def _write(self, folder: Path, *, name: str, half: bool) -> dict[str, Any]:
        world = self._rounded() if half else self
        small = {key for key, _ in world.model.named_parameters()} if half else set()
        tensors = {
            key: value.to(torch.float16 if key in small and value.dtype == torch.float32 else value.dtype)
            for key, value in _tensors(world.model).items()
        }
        write_tensors(folder / MODEL, tensors)
        world.starts.save(folder / STARTS)
        description = {
            "dreamenv": version("dreamenv"),
            "backbone": part_to_json(world.config),
            "spec": _spec_to_json(world.spec),
            "provenance": _provenance_to_json(world.provenance),
            "content_hash": world.content_hash(),
            "starts": len(world.starts),
            "record": world.record,
            "metrics": world.metrics,
        }
        (folder / CARD).write_text(make_model_card(name, description), encoding="utf-8")
        return description

    def replaced(self, **settings: Any) -> World:
        """Return a world of the same weights with some settings replaced, such as ``sampler=Euler(steps=2)``.

        Raises:
            UnknownNameError: there is no such setting.
            ConfigError: a value that cannot work, or one that needs other weights.
        """
        config = dataclasses.replace(self.config, **settings)
        model = config.build(self.spec)
        try:
            model.load_state_dict(_tensors(self.model))
        except RuntimeError as error:
            changed = ", ".join(f"{name}={value!r}" for name, value in settings.items())
            raise ConfigError(f"{changed} needs other weights than this world's; train a world with it.") from error
        model.eval().to(self.device)
        return World(model, config, self.starts, self.provenance, self.record, self.metrics)

    def _rounded(self) -> World:
        """Return the world with parameters rounded to half precision, as they will be read back."""
        model = self.config.build(self.spec)
        model.load_state_dict(_tensors(self.model))
        for parameter in model.parameters():
            parameter.data = parameter.data.half().float()
        return World(model, self.config, self.starts, self.provenance, self.record, self.metrics)

    def _model_hash(self) -> Any:
        settings = part_to_json(self.config, training=False)
        digest = hashlib.sha256(_canonical([settings, _spec_to_json(self.spec)]))
        for name, value in sorted(_tensors(self.model).items()):
            array = value.detach().cpu().contiguous()
            digest.update(f"{name}{tuple(array.shape)}{array.dtype}".encode())
            digest.update(array.view(-1).view(torch.uint8).numpy().tobytes() if array.numel() else b"")
        return digest


def _tensors(model: WorldModel) -> dict[str, Tensor]:
    return dict(model.state_dict())


def _spec_to_json(spec: WorldModelSpec) -> dict[str, Any]:
    return {
        "frame_shape": list(spec.frame_shape),
        "action_space": space_to_json(spec.action_space),
        "frame_rate": spec.frame_rate,
        "context_frames": spec.context_frames,
        "chunk": spec.chunk,
        "predicts_rewards": spec.predicts_rewards,
    }


def _read_spec(folder: Path, description: Mapping[str, Any]) -> WorldModelSpec:
    with refuse_malformed(WorldDamagedError, f"the spec in {folder}", REMEDY):
        values = dict(description["spec"])
        values["frame_shape"] = tuple(values["frame_shape"])
        values["action_space"] = space_from_json(values["action_space"])
        return WorldModelSpec(**values)


def _read_model(
    folder: Path, description: Mapping[str, Any], spec: WorldModelSpec
) -> tuple[BackboneConfig, WorldModel]:
    settings: Any = description.get("backbone")
    ours = version("dreamenv")
    shapes = read_shapes(folder / MODEL, WorldDamagedError, REMEDY)

    def misfit(what: str) -> WorldDamagedError:
        return WorldDamagedError(f"{folder} does not fit its own description: {what}. {REMEDY}")

    what = f"the backbone in {folder}"
    with refuse_malformed(WorldDamagedError, what, REMEDY, passing=(WorldVersionError,)):
        try:
            config = part_from_json(settings)
            if not isinstance(config, BackboneConfig):
                raise ConfigError(f"{config.kind!r} is no backbone.")
            model = build_for_weights(lambda: config.build(spec), shapes, _tensors, misfit)
        except (UnknownNameError, ConfigError) as error:
            raise WorldVersionError(
                f"{folder} was made of parts that this dreamenv ({ours}) does not have: {error} Upgrade dreamenv, or "
                "import the module that defines them."
            ) from error
        built, told = _spec_to_json(model.spec), _spec_to_json(spec)
        if built != told:
            name = next(name for name in told if built[name] != told[name])
            raise misfit(f"{name} should be {built[name]!r}, and is {told[name]!r}")
        return config, model


def _provenance_to_json(provenance: Provenance | None) -> Any:
    return provenance.to_json() if provenance else None


def _read_provenance(folder: Path, description: Mapping[str, Any]) -> Provenance | None:
    values = description.get("provenance")
    with refuse_malformed(WorldDamagedError, f"the provenance in {folder}", REMEDY):
        return None if values is None else Provenance.from_json(values)


def _canonical(values: Any) -> bytes:
    return json.dumps(values, sort_keys=True).encode()
