"""Codecs: shapes, what they learn, latents of unit size, saving, rows that do not meet, refusals."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from dreamenv.codecs.base import AutoencoderConfig, CodecTraining, divergence, sample
from dreamenv.codecs.codec import Codec
from dreamenv.codecs.conv_vae import ConvVAEConfig
from dreamenv.codecs.pixels import Pixels
from dreamenv.codecs.vit_vae import ViTVAEConfig
from dreamenv.errors import ConfigError, FrameError

SHAPE = (3, 16, 16)
TRAINING = CodecTraining(batch_size=8, learning_rate=6e-3)
CONV = ConvVAEConfig(latent_channels=4, channels=(16, 24), patch=2, training=TRAINING)
VIT = ViTVAEConfig(latent_channels=4, patch=4, embed_dim=32, depth=1, heads=2, training=TRAINING)
STRIDED = [dataclasses.replace(config, temporal_stride=stride) for config in (CONV, VIT) for stride in (1, 4)]


@dataclass(frozen=True, kw_only=True)
class Published(ConvVAEConfig, kind="published_codec_of_tests"):
    """A codec whose latents' size is known, and which are sampled from their distribution."""

    latent_scale: ClassVar = 0.25
    sampled: ClassVar = True


def name(config: AutoencoderConfig) -> str:
    return f"{config.kind}-{config.frames_per_latent}"


def clips(n: int, length: int, seed: int) -> Tensor:
    """(n, length, 3, 16, 16): a bright square of 5 pixels on a dim ground glides and bounces; colours are random."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.rand((n, 1, 2), generator=generator) * 22
    speed = torch.rand((n, 1, 2), generator=generator) * 2 - 1
    corner = (place + speed * torch.arange(length)[:, None]) % 22
    corner = (11 - (corner - 11).abs())[..., None]  # n t 2 1, from 0 to 11, back and forth
    inside = (torch.arange(16) >= corner) & (torch.arange(16) < corner + 5)  # n t 2 16
    square = (inside[:, :, 0, :, None] & inside[:, :, 1, None, :])[:, :, None]
    colours = torch.rand((2, n, 1, 3, 1, 1), generator=generator)
    return torch.where(square, 0.5 + 0.5 * colours[0], 0.3 * colours[1])


def made(config: AutoencoderConfig) -> Codec:
    """A codec whose every weight is random, also those that begin as 0."""
    torch.manual_seed(0)
    codec = Codec(config, SHAPE)
    for parameter in codec.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return codec.eval().requires_grad_(False)


def measure(codec: Codec, frames: Tensor) -> None:
    """Let the codec's measure come to rest at that of these frames, as it does while it learns from their like."""
    mean, _ = codec.autoencoder.encode(codec._pictures(frames))
    for _ in range(700):
        codec.update_statistics(mean)


def trained(config: AutoencoderConfig, steps: int, seed: int = 0) -> Codec:
    torch.manual_seed(seed)
    codec, generator = Codec(config, SHAPE), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(codec.parameters(), lr=config.training.learning_rate)
    frames = clips(400, config.frames_per_latent, seed=1)
    for _ in range(steps):
        loss, _ = codec.loss(frames[torch.randint(400, (config.training.batch_size,), generator=generator)], generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return codec.eval().requires_grad_(False)


# Autoencoders


@pytest.mark.parametrize(
    ("config", "picture_shape", "shape"),
    [
        (ConvVAEConfig(latent_channels=5, channels=(8,), patch=1), (3, 16, 24), (5, 16, 24)),
        (ConvVAEConfig(latent_channels=5, channels=(8, 12, 12, 12), blocks=2, patch=1), (3, 16, 24), (5, 2, 3)),
        (ConvVAEConfig(latent_channels=5, channels=(8,), patch=4), (12, 16, 24), (5, 4, 6)),
        (ViTVAEConfig(latent_channels=5, patch=4, embed_dim=16, depth=1, heads=2), (3, 16, 24), (5, 4, 6)),
        (ViTVAEConfig(latent_channels=5, patch=8, embed_dim=16, depth=2, heads=1), (12, 16, 24), (5, 2, 3)),
    ],
)
def test_an_autoencoder_keeps_its_shapes_and_every_weight_learns(config: AutoencoderConfig, picture_shape, shape):
    autoencoder = config.build(picture_shape)
    pictures = torch.rand((2, *picture_shape)) * 2 - 1
    mean, log_variance = autoencoder.encode(pictures)
    assert autoencoder.latent_shape == shape
    assert mean.shape == log_variance.shape == (2, *shape)
    decoded = autoencoder.decode(sample(mean, log_variance, None))
    assert decoded.shape == pictures.shape
    assert decoded.dtype == torch.float32
    ((decoded - pictures).square().mean() + divergence(mean, log_variance).mean()).backward()
    assert [name for name, parameter in autoencoder.named_parameters() if parameter.grad is None] == []


def test_the_divergence_is_that_of_a_normal_from_the_standard_normal():
    mean, log_variance = torch.tensor([0.0, 1.0, -2.0]), torch.tensor([0.0, 0.5, -3.0])
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(torch.zeros(3), torch.ones(3)))
    torch.testing.assert_close(divergence(mean, log_variance), expected)


def test_latents_are_sampled_with_the_mean_and_the_deviation_that_were_predicted():
    mean, log_variance = torch.full((20_000,), 3.0), torch.full((20_000,), 2 * math.log(0.5))
    sampled = sample(mean, log_variance, torch.Generator().manual_seed(0))
    assert float(sampled.mean()) == pytest.approx(3.0, abs=0.02)
    assert float(sampled.std()) == pytest.approx(0.5, abs=0.02)


# Codecs


@pytest.mark.parametrize("config", STRIDED, ids=name)
def test_a_latent_stands_for_as_many_frames_as_the_stride_says(config):
    codec, frames = made(config), clips(2, 8, seed=0)
    latents = codec.encode(frames)
    assert codec.latent_shape == (4, 4, 4)
    assert latents.shape == (2, 8 // config.frames_per_latent, 4, 4, 4)
    decoded = codec.decode(5 * latents)  # beyond what it would say, so that bounds matter
    assert decoded.shape == frames.shape
    assert float(decoded.min()) >= 0
    assert float(decoded.max()) <= 1


@pytest.mark.parametrize("config", STRIDED, ids=name)
def test_a_latent_knows_nothing_of_the_frames_before_and_after_it(config):
    codec, frames, r = made(config), clips(2, 8, seed=0), config.frames_per_latent
    latents = codec.encode(frames)
    torch.testing.assert_close(codec.encode(frames[:, -r:]), latents[:, -1:], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(codec.decode(latents[:, -1:]), codec.decode(latents)[:, -r:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config", STRIDED, ids=name)
def test_codecs_keep_rows_apart(config):
    codec, frames = made(config), clips(2, 4, seed=0)
    latents = codec.encode(frames)
    alone = torch.cat([codec.encode(frames[row : row + 1]) for row in range(2)])
    torch.testing.assert_close(alone, latents, rtol=0, atol=1e-6)
    decoded = torch.cat([codec.decode(latents[row : row + 1]) for row in range(2)])
    torch.testing.assert_close(decoded, codec.decode(latents), rtol=0, atol=1e-6)
    assert float((latents[0] - latents[1]).abs().max()) > 0.01


@pytest.mark.parametrize("config", [dataclasses.replace(CONV, temporal_stride=4), VIT], ids=name)
def test_a_codec_learns_pictures_it_has_not_seen(config):
    """Its error is less than 0.55 of that of the data's mean picture (0.04); it was 0.017 to 0.018."""
    codec, frames = trained(config, steps=150), clips(100, config.frames_per_latent, seed=2)
    error = (codec.decode(codec.encode(frames)) - frames).square().mean()
    mean_picture = clips(400, config.frames_per_latent, seed=1).mean(dim=0)
    assert float(error) < 0.55 * float((mean_picture - frames).square().mean())


@pytest.mark.parametrize("config", STRIDED, ids=name)
def test_latents_are_of_unit_size_once_it_has_learned(config):
    codec, frames = made(config), clips(100, 2 * config.frames_per_latent, seed=3)
    measure(codec, frames)
    latents = codec.encode(frames)
    zero, one = torch.zeros(4), torch.ones(4)
    torch.testing.assert_close(latents.mean(dim=(0, 1, 3, 4)), zero, rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.std(dim=(0, 1, 3, 4)), one, rtol=0, atol=1e-2)
    new = codec.encode(clips(100, config.frames_per_latent, seed=4))
    torch.testing.assert_close(new.std(dim=(0, 1, 3, 4)), one, rtol=0, atol=0.3)


@pytest.mark.parametrize("config", [CONV, VIT], ids=name)
def test_measuring_changes_latents_and_not_the_frames_they_decode_to(config):
    codec, frames = made(config), clips(20, 1, seed=0)
    before, decoded = codec.encode(frames), codec.decode(codec.encode(frames))
    measure(codec, frames)
    assert float((codec.encode(frames) - before).abs().max()) > 0.1
    torch.testing.assert_close(codec.decode(codec.encode(frames)), decoded, rtol=0, atol=1e-5)


def test_a_latent_channel_that_never_changes_stays_finite():
    codec = made(CONV)
    measure(codec, torch.full((2, 1, *SHAPE), 0.5))
    still = codec.encode(torch.full((1, 1, *SHAPE), 0.5))
    assert bool(still.isfinite().all())
    assert float(codec.latent_std.min()) > 0


@pytest.mark.parametrize("config", STRIDED, ids=name)
def test_a_codec_survives_saving_with_its_measure(config):
    codec, frames = made(config), clips(20, config.frames_per_latent, seed=0)
    measure(codec, frames)
    other = Codec(config, SHAPE).eval()
    other.load_state_dict({key: value.clone() for key, value in codec.state_dict().items()})
    latents = codec.encode(frames)
    torch.testing.assert_close(other.encode(frames), latents, rtol=0, atol=0)
    torch.testing.assert_close(other.decode(latents), codec.decode(latents), rtol=0, atol=0)


def test_a_loss_is_decided_by_its_generator():
    codec, frames = made(CONV), clips(4, 1, seed=0)
    losses = [float(codec.loss(frames, torch.Generator().manual_seed(seed))[0]) for seed in (0, 0, 1)]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_the_loss_weighs_divergence_against_squared_error():
    frames = clips(4, 1, seed=0)
    codec = made(dataclasses.replace(CONV, training=dataclasses.replace(TRAINING, kl_weight=0.5)))
    loss, logged = codec.loss(frames, torch.Generator().manual_seed(0))
    mean, log_variance = codec.autoencoder.encode(2 * frames[:, 0] - 1)
    nats = divergence(mean, log_variance).sum() / frames.numel()
    torch.testing.assert_close(logged["kl"], nats.detach())
    torch.testing.assert_close(loss.detach(), logged["reconstruction"] + 0.5 * logged["kl"])
    assert float(logged["psnr_db"]) == pytest.approx(10 * math.log10(4 / float(logged["reconstruction"])), abs=1e-4)


def test_a_published_codec_keeps_the_size_of_its_latents_while_it_learns():
    codec, frames = made(Published(channels=(8,))), clips(4, 1, seed=0)
    assert codec.latent_std.unique().tolist() == [4.0]
    codec.train().loss(frames, None)
    assert codec.latent_std.unique().tolist() == [4.0]
    assert codec.latent_mean.unique().tolist() == [0.0]
    measured = made(CONV).train()
    measured.loss(frames, None)
    assert len(measured.latent_std.unique()) > 1


def test_latents_are_sampled_from_their_distribution_where_noise_is_given():
    codec, frames = made(Published(channels=(8,))), clips(2, 1, seed=0)
    assert codec.sampled
    noise = torch.randn(2, 1, *codec.latent_shape, generator=torch.Generator().manual_seed(0))
    _, log_variance = codec.autoencoder.encode(codec._pictures(frames))
    expected = codec.encode(frames) + (log_variance / 2).exp()[:, None] * noise / 4
    torch.testing.assert_close(codec.encode(frames, noise), expected)


def test_pixels_stand_in_for_a_codec():
    pixels, frames = Pixels(SHAPE), clips(2, 3, seed=0)
    latents = pixels.encode(frames)
    assert pixels.latent_shape == SHAPE
    torch.testing.assert_close(latents, 2 * frames - 1)
    torch.testing.assert_close(pixels.decode(latents), frames)
    assert pixels.decode(3 * latents).aminmax() == (0, 1)


# Refusals


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ConvVAEConfig(temporal_stride=0), "temporal_stride must be at least 1, not 0"),
        (lambda: ConvVAEConfig(latent_channels=0), "latent_channels must be at least 1, not 0"),
        (lambda: ConvVAEConfig(channels=()), r"channels must be positive, at least one, not \(\)"),
        (lambda: ConvVAEConfig(blocks=0), "blocks must be at least 1, not 0"),
        (lambda: ViTVAEConfig(depth=0), "depth must be at least 1, not 0"),
        (lambda: ViTVAEConfig(temporal_stride=0), "temporal_stride must be at least 1, not 0"),
        (lambda: ViTVAEConfig(embed_dim=18, heads=4).build(SHAPE), "width of 18 cannot be 4 heads"),
        (lambda: ConvVAEConfig(channels=(8, 8, 8)).build((3, 20, 16)), "8 does not divide pictures of 20 x 16"),
        (lambda: ViTVAEConfig(patch=8).build((3, 20, 16)), "8 does not divide pictures of 20 x 16.*divides 4"),
        (lambda: Codec(CONV, (3, 18, 16)), "downsample of 4 does not divide pictures of 18 x 16"),
        (lambda: CodecTraining(batch_size=0), "batch_size at least 1, not 2000 and 0"),
        (lambda: CodecTraining(steps=-1), "steps must be at least 0 .* not -1 and 8"),
        (lambda: CodecTraining(kl_weight=-1.0), "kl_weight must be at least 0, not -1.0"),
        (lambda: CodecTraining(kl_weight=math.nan), "kl_weight must be a finite number, not nan"),
        (lambda: CodecTraining(learning_rate=0.0), "learning_rate must be above 0, not 0.0"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(make, named):
    with pytest.raises(ConfigError, match=named):
        make()


def test_a_number_of_frames_that_the_stride_does_not_divide_is_refused():
    codec = made(dataclasses.replace(CONV, temporal_stride=4))
    for call in (codec.encode, lambda frames: codec.loss(frames, None)):
        with pytest.raises(FrameError, match="multiple of the stride, 4, not 6"):
            call(clips(2, 6, seed=0))
    with pytest.raises(FrameError, match="multiple of the stride, 4, not 0"):
        codec.encode(torch.zeros(2, 0, *SHAPE))


@pytest.mark.parametrize(
    "frames", [torch.zeros(2, 1, 3, 16, 20), torch.zeros(2, 3, 16, 16), torch.zeros(2, 1, 3, 16, 16, dtype=torch.uint8)]
)
def test_frames_of_another_shape_or_type_are_refused(frames):
    with pytest.raises(FrameError, match=r"frames must be \(b, t, 3, 16, 16\) float32 in \[0, 1\]"):
        made(CONV).encode(frames)


@pytest.mark.parametrize("shape", [(2, 1, 4, 4, 5), (2, 4, 4, 4), (2, 1, 3, 16, 16)])
def test_latents_of_another_shape_are_refused(shape):
    with pytest.raises(FrameError, match=r"latents must be \(b, f, 4, 4, 4\), not"):
        made(CONV).decode(torch.zeros(shape))
