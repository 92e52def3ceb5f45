"""Diffusion Forcing's importer refuses files and settings that cannot work, by name."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import pytest
import torch
from drifting import make_starts
from tiny_diffusion_forcing import CONFIG, NET, PREFIX, SHAPE, SIZES, SPEC, TIME_SPEEDS, checkpoint
from torch import Tensor

from dreamenv.backbones.denoising import DenoisingConfig
from dreamenv.denoisers.diffusion_forcing import DiffusionForcingConfig
from dreamenv.denoisers.unet import UNetConfig
from dreamenv.diffusion.process import RectifiedFlow
from dreamenv.diffusion.target import FlowVelocity
from dreamenv.errors import ConfigError, WeightsError
from dreamenv.heads.no_reward import NoRewardHeadConfig
from dreamenv.importers.adapter import Options, load_weights
from dreamenv.importers.diffusion_forcing import DiffusionForcingAdapter
from dreamenv.world import World


def replaced(name: str, tensor: Tensor | None) -> dict[str, Tensor]:
    tensors = checkpoint()
    if tensor is None:
        del tensors[name]
    else:
        tensors[name] = tensor
    return tensors


@pytest.mark.parametrize(
    ("files", "options", "named"),
    [
        ([], Options(), "one checkpoint, not 0 files"),
        ([{}, {}], Options(), "one checkpoint, not 2 files"),
        ([{"x_embedder.proj.weight": torch.ones(1)}], Options(), "no video model of Diffusion Forcing.*begins with"),
        ([{PREFIX + "model.transformer.layers.0.norm1.bias": torch.ones(1)}], Options(), "planner"),
        ([replaced(PREFIX + "alphas_cumprod", torch.rand(500))], Options(), r"\(500,\); only chains of 1000"),
        ([replaced(PREFIX + "alphas_cumprod", torch.rand(1000))], Options(), "none of the noise schedules sigmoid"),
        ([replaced("data_mean", torch.tensor(0.4))], Options(), r"data_mean is 0.4.*in \[-1, 1\]"),
        ([replaced("data_std", torch.ones(3))], Options(), "data_std is"),
        ([replaced(NET + "init_conv.weight", torch.ones(8, 12, 1, 7, 7))], Options(), "takes 12 channels"),
        ([replaced(NET + "init_conv.weight", torch.ones(8))], Options(), "would have to have 5 axes"),
        ([replaced(NET + "init_conv.weight", torch.ones(9, 3, 1, 7, 7))], Options(), "sizes that cannot be.*9"),
        ([replaced(NET + "rotary_time_pos_embedding.freqs", None)], Options(), "freqs is missing"),
        ([replaced(NET + TIME_SPEEDS, torch.rand(2))], Options(), "mid_block.2.*freqs is not the table"),
        ([replaced(PREFIX + "snr", torch.rand(1000))], Options(), "snr is not what follows from.*'sigmoid'"),
        ([replaced(PREFIX + "snr", torch.rand(10))], Options(), "snr is not what follows"),
        ([replaced(PREFIX + "posterior_variance", None)], Options(), "posterior_variance is missing"),
        ([replaced(NET + "rotary_time_pos_embedding.freqs", torch.ones(5))], Options(), "cannot be of heads of 10"),
        ([checkpoint()], Options(heads=3), "2 heads, not 3"),
        ([checkpoint()], Options(size=(16, 15)), "16 x 15 cannot be.*multiples of 2"),
        ([checkpoint()], Options(actions="minecraft"), "no actions 'minecraft'.*only choice is 'nothing'"),
        ([checkpoint()], Options(sampling_steps=1001), "from 1 to 1000.*not 1001"),
    ],
)
def test_weights_that_cannot_be_imported_are_refused_with_the_remedy(files, options, named):
    with pytest.raises(WeightsError, match=f"(?s){named}"):
        DiffusionForcingAdapter().read(files, options)


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        (replaced(NET + "mid_block.0.in_layers.0.bias", None), "missing: .*mid_block.0.in_layers.0.bias"),
        (replaced(NET + "down_blocks.0.0.4.weight", torch.ones(1)), "one too many: .*down_blocks.0.0.4"),
        (replaced(NET + "out.1.bias", torch.ones(4)), r"out.1.bias is \(4,\).*would have to be \(3,\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tensors, named):
    architecture = DiffusionForcingAdapter().read([tensors], Options(size=(16, 16)))
    with pytest.raises(WeightsError, match=named):
        load_weights(architecture)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: DiffusionForcingConfig(channels=(8, 12)), "multiples of 8"),
        (lambda: DiffusionForcingConfig(head_size=5), "head_size even"),
        (lambda: DiffusionForcingConfig(pooling="none"), "'window' or 'past'"),
        (lambda: DiffusionForcingConfig(context=0), "context must be at least 1"),
        (lambda: SIZES.action_encoder(gym.spaces.Discrete(2)), r"must be Discrete\(1\)"),
        (lambda: dataclasses.replace(CONFIG, process=RectifiedFlow(), target=FlowVelocity()), "made for 'vp' noise"),
        (lambda: SIZES.build(dataclasses.replace(SHAPE, frame_shape=(3, 15, 16))), "15 x 16 are no multiple of 2"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, named):
    with pytest.raises(ConfigError, match=named):
        make()


def test_only_a_world_of_this_network_is_written():
    config = DenoisingConfig(denoiser=UNetConfig(channels=(8,), blocks=1, embed_dim=8), head=NoRewardHeadConfig())
    world = World(config.build(SPEC), config, make_starts(4, 16, SPEC.action_space))
    with pytest.raises(WeightsError, match="no denoiser of Diffusion Forcing"):
        DiffusionForcingAdapter().write(world)
