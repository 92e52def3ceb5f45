"""No silent setting: whatever is changed in a preset changes the world that is built from it, or is refused."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any, Literal

import gymnasium as gym
import pytest
import torch
from torch import Tensor

from dreamenv.backbones.rssm.prompting import PromptConfig
from dreamenv.capabilities import SupportsPrompt
from dreamenv.codecs.conv_vae import ConvVAEConfig
from dreamenv.diffusion.context_noise import NoiseAugmentation, Stabilization
from dreamenv.errors import ConfigError
from dreamenv.nn import precision
from dreamenv.parts import Part
from dreamenv.presets import backbone_names, make_config, preset_names
from dreamenv.text import MOST_WORDS
from dreamenv.world_model import BackboneConfig, Batch, WorldModel, WorldModelSpec

LARGE = {
    ("denoising", "diffusion_forcing_like_base"), ("rssm", "base"), ("token_world", "iris"),
    ("token_world", "mineworld"),
}  # fmt: skip
"""The parts of another preset, in sizes for a GPU."""

PRESETS = [
    (backbone, preset)
    for backbone in backbone_names()
    for preset in preset_names(backbone)
    if (backbone, preset) not in LARGE
]
ALONE = {("rssm", "revising"): "revision", ("rssm", "prompted"): "prompt"}
"""The one part in which a preset differs from another one, whose settings are tried there."""

SIDE = {
    "foveated": 64,
    "framepack_like": 64,
    "next_scale": 64,
    "prompted": 64,
    "revising": 64,
    "small": 64,
    "tiny": 64,
}  # pixels; where smaller frames leave out what presets are made for
OPTIONAL_PARTS: dict[str, tuple[Part, ...]] = {
    "context_noise": (Stabilization(stabilization_level=0.5), NoiseAugmentation(max_std=0.5)),
    "codec": (ConvVAEConfig(channels=(8, 8)),),
    "prompt": (PromptConfig(),),
}
FAR = {"free_nats": (1e4,), "min_p": (1.0,)}
"""Values of bounds that an untrained world does not come near."""

ROWS, STEPS = 2, 20


def settings_of(part: Part, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every setting of a part and of the parts in it."""
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if isinstance(value, Part):
            yield from settings_of(value, (*path, field.name))
        else:
            yield (*path, field.name)


def replaced(part: Any, path: tuple[str, ...], value: Any) -> Any:
    name, *rest = path
    return dataclasses.replace(part, **{name: replaced(getattr(part, name), tuple(rest), value) if rest else value})


def holder_of(part: Any, path: tuple[str, ...]) -> Any:
    for name in path[:-1]:
        part = getattr(part, name)
    return part


def others(holder: Part, name: str) -> tuple[Any, ...]:
    """Return values that a setting might have instead, the most likely to be accepted first."""
    if name in FAR:
        return FAR[name]
    value = getattr(holder, name)
    kind = typing.get_type_hints(type(holder))[name]
    if typing.get_origin(kind) is Literal:
        return tuple(other for other in typing.get_args(kind) if other != value)
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, int):
        return tuple(other for other in (2 * value or 1, value + 1, value // 2) if 0 < other != value)
    if isinstance(value, float):
        return value / 2 or 0.25, 2 * value or 2.0
    if value is None:
        return OPTIONAL_PARTS.get(name, (2.0,))
    assert isinstance(value, tuple)
    assert value
    if isinstance(value[-1], tuple):
        return (value[:-1],)
    if isinstance(value[-1], bool):
        return ((*value[:-1], not value[-1]),)
    return (*value[:-1], 2 * value[-1]), value[:-1]


def changes() -> Iterator[Any]:
    for backbone, preset in PRESETS:
        for path in settings_of(make_config(backbone, preset)):
            if path[0] != ALONE.get((backbone, preset), path[0]):
                continue
            yield pytest.param(backbone, preset, path, id=f"{preset}-{'.'.join(path)}")


class Observed:
    """What can be seen of a world, from what is cheap to what is dear."""

    def __init__(self, config: BackboneConfig, side: int, steps: dict[str, int] | None = None) -> None:
        torch.manual_seed(0)
        spec = WorldModelSpec(frame_shape=(3, side, side), action_space=gym.spaces.Discrete(3), frame_rate=10.0)
        self.model: WorldModel = config.build(spec)
        self.stages = {stage.name: stage for stage in self.model.stages()}
        self.steps = steps or {name: stage.sequence_length for name, stage in self.stages.items()}
        generator = torch.Generator().manual_seed(1)
        for parameter in self.model.parameters():  # some begin as zeros, which hide what is before them
            parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=generator))

    def plan(self) -> list[Any]:
        model = self.model
        capabilities = [getattr(model, "embedding_size", 0), getattr(model, "max_time_shift", 0)]
        return [model.spec.chunk, model.spec.context_frames, model.spec.predicts_rewards, *capabilities] + [
            (stage.name, stage.steps, stage.batch_size, stage.sequence_length, stage.learning_rate)
            for stage in self.stages.values()
        ]

    def weights(self) -> list[Any]:
        return [(name, value) for name, value in self.model.state_dict().items()]

    def dream(self) -> list[Any]:
        generator = torch.Generator().manual_seed(2)
        frames = torch.rand((ROWS, 1 + 2, *self.model.spec.frame_shape), generator=generator)
        self.model.eval()
        with torch.no_grad():
            state = self.model.start(frames[:, 0], torch.arange(ROWS))
            state = self.model.observe(state, torch.tensor([[0, 1], [2, 1]]), frames[:, 1:])
            if isinstance(self.model, SupportsPrompt):
                state = self.model.prompt(state, self.model.prompt_encoder.encode(["pans left", "red"]))
            actions = torch.randint(3, (ROWS, self.model.spec.chunk), generator=generator)
            imagined, state = self.model.imagine(state, actions)
        flat = state.flatten_keys("/")
        return [imagined.frames, imagined.rewards, imagined.termination, imagined.terminal_rewards] + [
            (name, flat[name]) for name in sorted(flat.keys())
        ]

    def losses(self) -> list[Any]:
        self.model.train()
        found = []
        for name, stage in self.stages.items():
            generator, t = torch.Generator().manual_seed(3), self.steps.get(name, STEPS)
            frames = torch.rand((ROWS, t + 1, *self.model.spec.frame_shape), generator=generator)
            features = None
            if stage.precompute is not None:
                with torch.no_grad():
                    features = stage.precompute(frames.flatten(0, 1)).unflatten(0, (ROWS, t + 1))
            batch = Batch(
                first_frame=frames[:, 0],
                frames=frames[:, 1:],
                actions=torch.randint(3, (ROWS, t), generator=generator),
                rewards=torch.rand((ROWS, t), generator=generator),
                terminated=torch.rand((ROWS, t), generator=generator) < 0.2,
                weight=torch.ones(ROWS, t),
                features=features,
                prompts=torch.randint(1, 2**31, (ROWS, t, MOST_WORDS), generator=generator),
                generator=generator,
            )
            with torch.no_grad():
                found += [objective.loss(batch)[0] for objective in stage.objectives]
        return found

    LOOKS = (plan, weights, dream, losses)


def same(left: Any, right: Any) -> bool:
    if isinstance(left, tuple | list):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left.shape == right.shape and torch.equal(left, right)
    return type(left) is type(right) and bool(left == right)


_SEEN: dict[tuple[str, str], tuple[Observed, list[Any]]] = {}


def observed_before(backbone: str, preset: str) -> tuple[Observed, list[Any]]:
    """Return a preset as it is, and what has been seen of it."""
    if (backbone, preset) not in _SEEN:
        observed = Observed(make_config(backbone, preset), SIDE.get(preset, 32))
        _SEEN.clear()  # tests of one preset follow each other
        _SEEN[backbone, preset] = observed, [look(observed) for look in Observed.LOOKS]
    return _SEEN[backbone, preset]


@pytest.mark.parametrize(("backbone", "preset", "path"), list(changes()))
def test_a_changed_setting_has_an_effect_or_is_refused(
    backbone: str, preset: str, path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda _: True)  # so that the test is the same on every processor
    config = make_config(backbone, preset)
    refusals = []
    for value in others(holder_of(config, path), path[-1]):
        try:
            changed = replaced(config, path, value)
            before, seen = observed_before(backbone, preset)
            after = Observed(changed, SIDE.get(preset, 32), before.steps)
        except ConfigError as refusal:
            refusals.append(str(refusal))
            continue
        for look, expected in zip(Observed.LOOKS, seen, strict=True):
            if not same(look(after), expected):
                return
        pytest.fail(f"{'.'.join(path)}={value!r} is accepted and changes nothing")
    assert refusals
