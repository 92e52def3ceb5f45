"""DIAMOND's weights become a world, and come out again as they went in."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from public import filled, imported, recorded, starts_for, without
from torch import Tensor

from dreamenv.backbones.denoising import DenoiserTraining, DenoisingConfig
from dreamenv.denoisers.base import DenoiserShape
from dreamenv.denoisers.diamond import DiamondConfig
from dreamenv.diffusion.process import EDM
from dreamenv.diffusion.sampler import Euler
from dreamenv.diffusion.target import EDMPreconditioned
from dreamenv.dream import DreamEnv, DreamVectorEnv
from dreamenv.errors import ConfigError, WeightsError
from dreamenv.heads.diamond_head import DiamondHeadConfig
from dreamenv.heads.no_reward import NoRewardHeadConfig
from dreamenv.importers import import_world
from dreamenv.importers.adapter import Options, load_weights, to_published
from dreamenv.importers.diamond import DENOISER_NAMES, HEAD_NAMES, DiamondAdapter
from dreamenv.parts import part_from_json, part_to_json
from dreamenv.world import World
from dreamenv.world_model import Batch, WorldModelSpec

CONFIG = DenoisingConfig(
    denoiser=DiamondConfig(context=2, embed_dim=16, channels=(8, 16), blocks=(1, 2), attention=(False, True)),
    process=EDM(sigma_max=5.0, p_mean=-0.4),
    target=EDMPreconditioned(sigma_data=0.5, offset_noise=0.3),
    sampler=Euler(steps=3, init_noise_sigma=1.0, quantize_x0=True),
    head=DiamondHeadConfig(hidden_size=6, embed_dim=4, channels=(4, 8), blocks=(2, 1), attention=(False, False)),
    training=DenoiserTraining(learning_rate=1e-4, bfloat16=False),
)
SPEC = WorldModelSpec(frame_shape=(3, 16, 16), action_space=gym.spaces.Discrete(3), frame_rate=15.0)

GOLDEN = [0.5204632, 0.0249337, -0.0030034, 0.0053134, 0.4916202, 0.4982188]


def agent() -> dict[str, Tensor]:
    """A published file in miniature."""
    torch.manual_seed(0)
    world = World(filled(CONFIG.build(SPEC)), CONFIG, starts_for(SPEC))  # type: ignore[arg-type]
    return DiamondAdapter().write(world)["agent.pt"]


def test_names_and_shapes_are_the_recorded_ones():
    """Atari's size, for a game of six actions."""
    with torch.device("meta"):
        denoiser = DiamondConfig().build(DenoiserShape(frame_shape=(3, 64, 64), discrete=(True,) * 6))
    theirs = {f"denoiser.{name}": tuple(one.shape) for name, one in to_published(denoiser, DENOISER_NAMES).items()}
    assert theirs == recorded("diamond")
    assert sum(one.numel() for one in denoiser.parameters()) == 4_406_083


def test_names_of_the_head_are_the_published_ones():
    with torch.device("meta"):
        head = DiamondHeadConfig().build((3, 64, 64), 6)
    theirs = to_published(head, HEAD_NAMES)
    assert theirs["encoder.blocks.4.resblocks.1.attn.qkv_proj.weight"].shape == (96, 32, 1, 1)
    assert theirs["lstm.weight_ih_l0"].shape == (2048, 2048)
    assert theirs["head.2.weight"].shape == (5, 512)


def test_sizes_are_read_from_shapes_and_weights_come_out_as_they_went_in():
    tensors = agent()
    extra = {"actor_critic.lstm.bias_ih": torch.zeros(4)}
    world = imported(DiamondAdapter(), [tensors | extra])
    assert world.config == CONFIG
    assert (world.spec.frame_shape, world.spec.action_space) == ((3, 16, 16), gym.spaces.Discrete(3))
    again = DiamondAdapter().write(world)["agent.pt"]
    assert list(again) == list(tensors)
    assert all(torch.equal(again[name], one) for name, one in tensors.items())


def test_a_dream_of_fixed_weights_does_not_change():
    """Numbers of our own, once seen to agree with the public code's: see `dreamenv.benchmarks.peers`."""
    world = imported(DiamondAdapter(), [agent()])
    state = world.model.start(torch.linspace(0, 1, 768).reshape(1, 3, 16, 16), torch.zeros(1, dtype=torch.int64))
    with torch.no_grad():
        imagined, _ = world.model.imagine(state, torch.tensor([[1, 2]]))
    found = [float(imagined.frames.mean()), float(imagined.frames.std()), *imagined.rewards[0].tolist(),
             *imagined.termination[0].tolist()]  # fmt: skip
    assert found == pytest.approx(GOLDEN, abs=2e-3)


def test_gym_dreams_in_it_and_rewards_are_returned():
    env = DreamEnv(imported(DiamondAdapter(), [agent()]), horizon=3)
    observation, _ = env.reset(seed=0)
    assert observation.shape == (16, 16, 3)
    steps = [env.step(action) for action in (0, 1, 2)]
    assert len({observation.tobytes() for observation, *_ in steps}) == 3
    assert all(-1 < reward < 1 for _, reward, *_ in steps)
    assert steps[-1][3] or any(terminated for _, _, terminated, *_ in steps)


def test_rows_and_pieces_of_a_batch_do_not_matter():
    world = imported(DiamondAdapter(), [agent()])
    frames = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        state = world.model.start(frames, torch.arange(6))
        together, _ = world.model.imagine(state, torch.ones(6, 1, dtype=torch.int64))
        alone, _ = world.model.imagine(state[4:5], torch.ones(1, 1, dtype=torch.int64))
    assert torch.allclose(together.frames[4:5], alone.frames, atol=1.1 / 255)


def test_frames_observed_one_by_one_give_the_same_cache_as_together():
    world = imported(DiamondAdapter(), [agent()])
    frames = torch.rand(2, 5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    actions = torch.tensor([[0, 1, 2, 1], [2, 2, 0, 1]])
    with torch.no_grad():
        started = world.model.start(frames[:, 0], torch.arange(2))
        together = world.model.observe(started, actions, frames[:, 1:])
        state = started
        for step in range(4):
            state = world.model.observe(state, actions[:, step : step + 1], frames[:, step + 1 : step + 2])
    for name in ("hidden", "cell"):
        assert not torch.allclose(state[name], started[name], atol=1e-3)
        assert torch.allclose(state[name], together[name], atol=1e-6)


def test_weights_in_bfloat16_dream_too():
    world = imported(DiamondAdapter(), [agent()])
    env = DreamEnv(world, horizon=3, precision="bfloat16")
    env.reset(seed=0)
    assert np.isfinite(env.step(1)[1])


def test_all_of_it_learns():
    model: Any = load_weights(DiamondAdapter().read([agent()], Options()))
    model.train()
    b, t = 2, 8
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(b, t + 1, 3, 16, 16, generator=generator)
    batch = Batch(
        first_frame=frames[:, 0], frames=frames[:, 1:], actions=torch.randint(3, (b, t)), rewards=torch.ones(b, t),
        terminated=torch.zeros(b, t, dtype=torch.bool), weight=torch.ones(b, t), features=None, generator=generator,
    )  # fmt: skip
    for stage in model.stages():
        for objective in stage.objectives:
            objective.loss(batch)[0].backward()
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: [t, t], "one file, not 2"),
        (lambda t: [{"blocks.0.s_attn.to_qkv.weight": torch.zeros(2, 2)}], "no agent of DIAMOND"),
        (lambda t: [without(t, "denoiser.inner_model.conv_out.bias")], "missing: inner_model.conv_out.bias"),
        (lambda t: [without(t, "denoiser.inner_model.act_emb.0.weight")], "act_emb.0.weight is missing"),
        (lambda t: [t | {"denoiser.inner_model.more": torch.zeros(1)}], "one too many: inner_model.more"),
        (
            lambda t: [t | {"denoiser.inner_model.cond_proj.0.bias": torch.zeros(15)}],
            r"cond_proj.0.bias is \(15,\); .* \(16,\)",
        ),
        (lambda t: [t | {"denoiser.inner_model.conv_in.weight": torch.zeros(8, 12, 3, 3)}], "takes 12 channels"),
        (lambda t: [t | {"rew_end_model.act_emb.weight": torch.zeros(5, 4)}], "knows 5 actions, the denoiser 3"),
        (lambda t: [t | {"denoiser.upsampler.conv.weight": torch.zeros(1)}], "CS:GO"),
        (lambda t: [t | {"rew_end_model.lstm.weight_ih_l0": torch.zeros(24, 100)}], "no square of places"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused_by_name(change, message):
    with pytest.raises(WeightsError, match=message):
        load_weights(DiamondAdapter().read(change(agent()), Options()))


def test_another_action_space_is_refused():
    found = DiamondAdapter().read([agent()], Options())
    other = dataclasses.replace(found, spec=dataclasses.replace(found.spec, action_space=gym.spaces.Discrete(4)))
    with pytest.raises(WeightsError, match=r"act_emb.0.weight is \(3, 8\); .* \(4, 8\)"):
        load_weights(other)


def test_only_a_world_of_diamond_s_is_written_as_one():
    config = dataclasses.replace(CONFIG, head=DenoisingConfig().head)
    with pytest.raises(WeightsError, match="denoiser and head are not DIAMOND's"):
        DiamondAdapter().write(World(config.build(SPEC), config, starts_for(SPEC)))


def test_steps_that_cannot_be_are_refused():
    with pytest.raises(WeightsError, match="steps must be at least 1, not 0"):
        DiamondAdapter().read([agent()], Options(sampling_steps=0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": (64, 64)}, "as many as there are resolutions, not 2, 4 and 4"),
        ({"channels": (0, 64, 64, 64)}, "must be positive"),
    ],
)
def test_resolutions_that_cannot_be_are_refused_by_denoiser_and_head(settings, message):
    for part in (DiamondConfig, DiamondHeadConfig):
        with pytest.raises(ConfigError, match=message):
            part(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embed_dim": 254}, "multiple of the context of 4 frames, not 254"),
        ({"embed_dim": 15, "context": 3}, "must be even"),
        ({"context": 0}, "context must be at least 1"),
    ],
)
def test_widths_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        DiamondConfig(**settings)
    with pytest.raises(ConfigError, match="hidden_size must be at least 1"):
        DiamondHeadConfig(hidden_size=0)


@pytest.mark.parametrize(
    ("channels", "attention", "found"),
    [((100,), False, "100 channels"), ((64, 36), False, "100 channels"), ((28,), True, "28 channels")],
)
def test_channels_that_cannot_be_normalised_or_attended_are_refused(channels, attention, found):
    config = DiamondConfig(channels=channels, blocks=(1,) * len(channels), attention=(attention,) * len(channels))
    with pytest.raises(ConfigError, match=f"{found}.* cannot be divided"):
        config.build(DenoiserShape(frame_shape=(3, 16, 16), discrete=(True,) * 3))


def test_every_setting_changes_what_is_built():
    def built(config):
        shape = DenoiserShape(frame_shape=(3, 16, 16), discrete=(True,) * 3)
        made = config.build(shape) if isinstance(config, DiamondConfig) else config.build((3, 16, 16), 3)
        return {name: tuple(one.shape) for name, one in made.named_parameters()}

    changes = {
        CONFIG.denoiser: {
            "context": 4, "embed_dim": 32, "channels": (8, 24), "blocks": (2, 2), "attention": (True, True),
        },
        CONFIG.head: {
            "hidden_size": 7, "embed_dim": 5, "channels": (4, 16), "blocks": (1, 1), "attention": (True, False),
        },
    }  # fmt: skip
    for part, settings in changes.items():
        named = {field.name for field in dataclasses.fields(part)} - {"training"}
        assert named == settings.keys()
        for name, value in settings.items():
            assert built(dataclasses.replace(part, **{name: value})) != built(part), name
    head = dataclasses.replace(CONFIG.head, training=dataclasses.replace(CONFIG.head.training, steps=7))
    assert dataclasses.replace(CONFIG, head=head).build(SPEC).stages()[-1].steps == 7


def test_its_parts_are_written_as_json_and_read_back():
    written = part_to_json(CONFIG)
    assert (written["denoiser"]["kind"], written["head"]["kind"]) == ("diamond", "diamond_head")
    assert part_from_json(written) == CONFIG


def test_without_its_reward_network_it_is_a_world_of_frames_alone(tmp_path):
    frames = {name: tensor for name, tensor in agent().items() if name.startswith("denoiser.")}
    path = tmp_path / "agent.pt"
    torch.save(frames, path)
    starts = starts_for(SPEC)
    world = import_world("diamond", [path], starts=starts, options=Options(size=(16, 16)))
    assert isinstance(world.config.head, NoRewardHeadConfig)
    assert not world.spec.predicts_rewards
    assert "rewards and terminations are not predicted" in world.record["imported"]["notes"][0]
    dreams = DreamVectorEnv(world, 2, reward_fn=lambda frames, actions: np.ones(2))
    dreams.reset(seed=0)
    assert dreams.step(np.zeros(2, np.int64))[1].tolist() == [1.0, 1.0]
    written = DiamondAdapter().write(world)["agent.pt"]
    assert written.keys() == frames.keys()
    assert all(torch.equal(written[name], frames[name]) for name in frames)
    published = DiamondAdapter().read([frames], Options())
    assert published.spec.frame_shape == (3, 64, 64), "the size that no tensor says"


@pytest.mark.parametrize("name", ["heads", "encoder_heads", "actions"])
def test_options_without_an_effect_are_refused(name, tmp_path):
    torch.save(agent(), tmp_path / "agent.pt")
    with pytest.raises(ConfigError, match=f"{name} has no effect on DIAMOND, which takes size, sampling_steps"):
        import_world("diamond", [tmp_path / "agent.pt"], starts=starts_for(SPEC), options=Options(**{name: 2}))
