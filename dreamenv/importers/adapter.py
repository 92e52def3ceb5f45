"""What importing a system takes: an adapter that knows its files, its sizes and its names, and what all share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from dreamenv.data.provenance import Provenance
from dreamenv.errors import WeightsError
from dreamenv.importers.key_map import KeyMap
from dreamenv.world import World
from dreamenv.world_model import BackboneConfig, WorldModel, WorldModelSpec

__all__ = ["Adapter", "Architecture", "Options", "load_weights", "shape_of", "to_published"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the tensors' shapes do not say. None takes what was published.

    Attributes:
        size: height and width of frames, in pixels.
        heads: of the network's attention.
        encoder_heads, decoder_heads: of attention in the two halves of the autoencoder.
        actions: which action space the world shall have, of those its system has.
        sampling_steps: of the sampler, per frame.
        context: past frames that the model attends to.
    """

    size: tuple[int, int] | None = None
    heads: int | None = None
    encoder_heads: int | None = None
    decoder_heads: int | None = None
    actions: str | None = None
    sampling_steps: int | None = None
    context: int | None = None


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What an adapter reads from tensors.

    Attributes:
        config: of the world.
        spec: of its frames and actions.
        tensors: under their published names, by part of the model ("denoiser", "codec.autoencoder", "head").
        names: of each part.
        provenance: of what it was trained on, as far as an environment of ours corresponds to it.
        rewards: whether it predicts them.
        notes: what its user should know, such as what was assumed because no tensor says it; a sentence each.
    """

    config: BackboneConfig
    spec: WorldModelSpec
    tensors: Mapping[str, Mapping[str, Tensor]]
    names: Mapping[str, KeyMap]
    provenance: Provenance | None = None
    rewards: bool = False
    notes: tuple[str, ...] = field(default=())


class Adapter(ABC):
    """One system.

    Attributes:
        name: on the command line.
        title: as its authors call it.
        licence: of its weights.
        source: where its weights are, in words.
        prefixes: that training leaves in names, see `read_tensors`.
        options: the names of the `Options` that have an effect; others are refused.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    licence: ClassVar[str]
    source: ClassVar[str]
    prefixes: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[tuple[str, ...]] = ("size", "heads", "actions", "sampling_steps")

    @abstractmethod
    def read(self, files: Sequence[Mapping[str, Tensor]], options: Options) -> Architecture:
        """Read sizes from tensors' shapes.

        Args:
            files: the tensors of each file, under their published names, in any order.
            options: what shapes do not say.

        Raises:
            WeightsError: of another system, of shapes that do not fit together, or a file too few or too many.
        """

    def load(self, architecture: Architecture) -> WorldModel:
        """Build the model and put the tensors in.

        Raises:
            WeightsError: a tensor is missing, is one too many, or is of another shape.
        """
        return load_weights(architecture)

    @abstractmethod
    def write(self, world: World) -> dict[str, dict[str, Tensor]]:
        """Return a world's tensors under their published names, by the name of the file that they were published in."""


def load_weights(architecture: Architecture) -> WorldModel:
    """Build the model and put the tensors in.

    Raises:
        WeightsError: a tensor is missing, is one too many, or is of another shape.
    """
    model = architecture.config.build(architecture.spec)
    with torch.no_grad():
        for place, tensors in architecture.tensors.items():
            part = model.get_submodule(place)
            expected = to_published(part, architecture.names[place])
            missing, extra = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
            if missing or extra:
                raise WeightsError(
                    "the tensors do not fit the architecture that their shapes indicate: "
                    f"{_listed('missing', missing)}{' and ' if missing and extra else ''}"
                    f"{_listed('one too many', extra)}. Is the file whole, and of this system?"
                )
            for name, tensor in tensors.items():
                if tensor.shape != expected[name].shape:
                    raise WeightsError(
                        f"{name} is {tuple(tensor.shape)}; with the shapes of the others it would have to be "
                        f"{tuple(expected[name].shape)}."
                    )
            ours, _ = architecture.names[place].to_ours(tensors)
            part.load_state_dict({name: tensor.float() for name, tensor in ours.items()}, strict=True)
    return model.eval()


def to_published(part: nn.Module, names: KeyMap) -> dict[str, Tensor]:
    """Return a part's tensors under their published names."""
    theirs, unknown = names.to_theirs(part.state_dict())
    assert not unknown, unknown
    return theirs


def shape_of(tensors: Mapping[str, Tensor], name: str, axes: int) -> tuple[int, ...]:
    """Return the shape of a tensor that a file must have.

    Raises:
        WeightsError: it is not there, has another number of axes, or holds nothing.
    """
    if name not in tensors:
        raise WeightsError(f"{name} is missing. Is the file whole, and of this system?")
    shape = tuple(tensors[name].shape)
    if len(shape) != axes or min(shape) < 1:
        raise WeightsError(f"{name} is {shape}; it should have {axes} axes, none of them empty.")
    return shape


def _listed(what: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{what}: {', '.join(names[:3])}{more}"
