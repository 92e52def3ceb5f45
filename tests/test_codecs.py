"""Codecs: shapes, what they learn, latents of unit size, saving, rows that do not meet, refusals."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from dreamenv.backbones.denoising.codec import Codec, CodecConfig
from dreamenv.errors import ConfigError, FrameError
from dreamenv.nn.autoencoders import ConvVAE, PictureVAE, ViTVAE, divergence, sample

SHAPE = (3, 16, 16)
CONV = CodecConfig(kind="conv", downsample=4, latent_channels=4, channels=(16, 24), patch=2, batch=8, rate=6e-3)
VIT = CodecConfig(kind="vit", downsample=4, latent_channels=4, width=32, depth=1, heads=2, batch=8, rate=6e-3)
STRIDED = [dataclasses.replace(config, stride=stride) for config in (CONV, VIT) for stride in (1, 4)]


def name(config: CodecConfig) -> str:
    return f"{config.kind}-{config.stride}"


def clips(n: int, length: int, seed: int) -> Tensor:
    """(n, length, 3, 16, 16): a bright square of 5 pixels on a dim ground glides and bounces; colours are drawn."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.rand((n, 1, 2), generator=generator) * 22
    speed = torch.rand((n, 1, 2), generator=generator) * 2 - 1
    corner = (place + speed * torch.arange(length)[:, None]) % 22
    corner = (11 - (corner - 11).abs())[..., None]  # n t 2 1, from 0 to 11, back and forth
    inside = (torch.arange(16) >= corner) & (torch.arange(16) < corner + 5)  # n t 2 16
    square = (inside[:, :, 0, :, None] & inside[:, :, 1, None, :])[:, :, None]
    colours = torch.rand((2, n, 1, 3, 1, 1), generator=generator)
    return torch.where(square, 0.5 + 0.5 * colours[0], 0.3 * colours[1])


def made(config: CodecConfig) -> Codec:
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
        codec.follow(mean)


def trained(config: CodecConfig, steps: int, seed: int = 0) -> Codec:
    torch.manual_seed(seed)
    codec, generator = Codec(config, SHAPE), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(codec.parameters(), lr=config.rate)
    frames = clips(400, config.stride, seed=1)
    for _ in range(steps):
        loss, _ = codec.loss(frames[torch.randint(400, (config.batch,), generator=generator)], generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return codec.eval().requires_grad_(False)


# Autoencoders


@pytest.mark.parametrize(
    ("autoencoder", "shape"),
    [
        (ConvVAE((3, 16, 24), 5, 1, (8,)), (5, 16, 24)),
        (ConvVAE((3, 16, 24), 5, 8, (8, 12), blocks=2), (5, 2, 3)),
        (ConvVAE((12, 16, 24), 5, 4, (8, 12), patch=4), (5, 4, 6)),
        (ViTVAE((3, 16, 24), 5, 4, 16, depth=1, heads=2), (5, 4, 6)),
        (ViTVAE((12, 16, 24), 5, 8, 16, depth=2, heads=1), (5, 2, 3)),
    ],
)
def test_an_autoencoder_keeps_its_shapes_and_every_weight_learns(autoencoder: PictureVAE, shape):
    pictures = torch.rand((2, *autoencoder.picture_shape)) * 2 - 1
    mean, log_variance = autoencoder.encode(pictures)
    assert autoencoder.latent_shape == shape
    assert mean.shape == log_variance.shape == (2, *shape)
    drawn = autoencoder.decode(sample(mean, log_variance, None))
    assert drawn.shape == pictures.shape
    assert drawn.dtype == torch.float32
    ((drawn - pictures).square().mean() + divergence(mean, log_variance).mean()).backward()
    assert [name for name, parameter in autoencoder.named_parameters() if parameter.grad is None] == []


def test_the_divergence_is_that_of_a_normal_from_the_standard_normal():
    mean, log_variance = torch.tensor([0.0, 1.0, -2.0]), torch.tensor([0.0, 0.5, -3.0])
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(torch.zeros(3), torch.ones(3)))
    torch.testing.assert_close(divergence(mean, log_variance), expected)


def test_latents_are_drawn_with_the_mean_and_the_deviation_that_were_said():
    mean, log_variance = torch.full((20_000,), 3.0), torch.full((20_000,), 2 * math.log(0.5))
    drawn = sample(mean, log_variance, torch.Generator().manual_seed(0))
    assert float(drawn.mean()) == pytest.approx(3.0, abs=0.02)
    assert float(drawn.std()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ConvVAE((3, 20, 16), 4, 8, (8,)), "downsample of 8 does not divide pictures of 20 x 16"),
        (lambda: ViTVAE((3, 20, 16), 4, 8, 16), "downsample of 8 does not divide pictures of 20 x 16"),
        (lambda: ConvVAE((3, 24, 24), 4, 6, (8,)), r"patch \(1\) times a power of two, not 6: 1, 2, 4, 8"),
        (lambda: ConvVAE((3, 24, 24), 4, 2, (8,), patch=4), r"patch \(4\) times a power of two, not 2"),
        (lambda: ConvVAE((3, 16, 16), 4, 4, ()), "channels and blocks must be positive"),
        (lambda: ConvVAE((3, 16, 16), 0, 4, (8,)), "must be positive"),
        (lambda: ViTVAE((3, 16, 16), 4, 4, 16, depth=0), "width and depth must be positive, not 16 and 0"),
        (lambda: ViTVAE((3, 16, 16), 4, 4, 18, heads=4), "width of 18 must be 4 heads"),
    ],
)
def test_sizes_that_cannot_work_are_refused(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


# Codecs


@pytest.mark.parametrize("config", STRIDED, ids=name)
def test_a_latent_stands_for_as_many_frames_as_the_stride_says(config):
    codec, frames = made(config), clips(2, 8, seed=0)
    latents = codec.encode(frames)
    assert codec.latent_shape == (4, 4, 4)
    assert latents.shape == (2, 8 // config.stride, 4, 4, 4)
    decoded = codec.decode(5 * latents)  # beyond what it would say, so that bounds matter
    assert decoded.shape == frames.shape
    assert float(decoded.min()) >= 0
    assert float(decoded.max()) <= 1


@pytest.mark.parametrize("config", STRIDED, ids=name)
def test_a_latent_knows_nothing_of_the_frames_before_and_after_it(config):
    codec, frames, r = made(config), clips(2, 8, seed=0), config.stride
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


@pytest.mark.parametrize("config", [dataclasses.replace(CONV, stride=4), VIT], ids=name)
def test_a_codec_learns_pictures_it_has_not_seen(config):
    """Its error is less than 0.55 of that of the data's mean picture (0.04); it was 0.017 to 0.018."""
    codec, frames = trained(config, steps=150), clips(100, config.stride, seed=2)
    error = (codec.decode(codec.encode(frames)) - frames).square().mean()
    mean_picture = clips(400, config.stride, seed=1).mean(dim=0)
    assert float(error) < 0.55 * float((mean_picture - frames).square().mean())


@pytest.mark.parametrize("config", STRIDED, ids=name)
def test_latents_are_of_unit_size_once_it_has_learned(config):
    codec, frames = made(config), clips(100, 2 * config.stride, seed=3)
    measure(codec, frames)
    latents = codec.encode(frames)
    zero, one = torch.zeros(4), torch.ones(4)
    torch.testing.assert_close(latents.mean(dim=(0, 1, 3, 4)), zero, rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.std(dim=(0, 1, 3, 4)), one, rtol=0, atol=1e-2)
    new = codec.encode(clips(100, config.stride, seed=4))
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
    codec, frames = made(config), clips(20, config.stride, seed=0)
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
    codec = made(dataclasses.replace(CONV, kl_weight=0.5))
    loss, logged = codec.loss(frames, torch.Generator().manual_seed(0))
    mean, log_variance = codec.autoencoder.encode(2 * frames[:, 0] - 1)
    nats = divergence(mean, log_variance).sum() / frames.numel()
    torch.testing.assert_close(logged["kl"], nats.detach())
    torch.testing.assert_close(loss.detach(), logged["reconstruction"] + 0.5 * logged["kl"])
    assert float(logged["psnr_db"]) == pytest.approx(10 * math.log10(4 / float(logged["reconstruction"])), abs=1e-4)


# Refusals


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "gan"}, "kind must be 'conv' or 'vit', not 'gan'"),
        ({"stride": 0}, "stride must be at least 1, not 0"),
        ({"latent_channels": 0}, "latent_channels must be at least 1, not 0"),
        ({"batch": 0}, "batch must be at least 1, not 0"),
        ({"channels": ()}, "channels must be positive"),
        ({"kl_weight": -1.0}, "kl_weight must be at least 0, not -1.0"),
        ({"kl_weight": math.nan}, "kl_weight must be at least 0, not nan"),
        ({"rate": 0.0}, "rate must be above 0, not 0.0"),
        ({"downsample": 12}, r"patch \(2\) times a power of two, not 12: 2, 4, 8, 16"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        CodecConfig(**settings)


def test_frames_that_the_downsample_does_not_divide_are_refused():
    with pytest.raises(ConfigError, match="downsample of 4 does not divide pictures of 18 x 16"):
        Codec(CONV, (3, 18, 16))


def test_a_number_of_frames_that_the_stride_does_not_divide_is_refused():
    codec = made(dataclasses.replace(CONV, stride=4))
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
