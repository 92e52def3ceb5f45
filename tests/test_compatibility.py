"""Parts of a denoising world that do not go together are refused: each error names the value, and what would do."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import pytest
from tiny_worlds import (
    TINY,
    TINY_CODEC,
    TINY_CROSS,
    TINY_DIT,
    TINY_LATENT,
    TINY_PACKED,
    TINY_SHORTCUT,
    with_denoiser,
    with_training,
)

from dreamenv.denoisers.cross_dit import CrossDiTConfig
from dreamenv.denoisers.framepack import FramePackConfig
from dreamenv.denoisers.unet import UNetConfig
from dreamenv.diffusion.context_noise import NoiseAugmentation, Stabilization
from dreamenv.diffusion.guidance import Guidance
from dreamenv.diffusion.process import EDM, RectifiedFlow, VariancePreserving
from dreamenv.diffusion.sampler import DDIM, Ancestral, Euler
from dreamenv.diffusion.schedule import Chunkwise, FullSequence, NextFrame, Pyramid, Trapezoid
from dreamenv.diffusion.target import X0, Epsilon, FlowVelocity, Velocity
from dreamenv.errors import ConfigError

LABELLED = Stabilization(stabilization_level=0.1, context_noise_mode="labelled")
LATENT_HEAD = dataclasses.replace(TINY.head, watches="latent")
STRIDED = dataclasses.replace(TINY_CODEC, temporal_stride=4)


class OfFlows(UNetConfig, kind="denoiser_of_flows"):
    """Knows the levels of flows alone."""

    noise_processes: ClassVar = ("flow",)


class Deaf(UNetConfig, kind="deaf_denoiser"):
    """Is given no actions."""

    takes_actions: ClassVar = False


def training(**settings):
    return dataclasses.replace(TINY.training, **settings)


def refused(config, named, **settings):
    with pytest.raises(ConfigError, match=named):
        dataclasses.replace(config, **settings)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"denoiser": "rnn"}, "denoiser must be a DenoiserConfig, not 'rnn'"),
        ({"denoiser": None}, "denoiser must be a DenoiserConfig, not None"),
        ({"process": "white"}, "process must be a NoiseProcess, not 'white'"),
        ({"target": EDM()}, r"target must be a Target, not EDM\("),
        ({"sampler": "fast"}, "sampler must be a Sampler, not 'fast'"),
        ({"schedule": "spiral"}, "schedule must be a Schedule, not 'spiral'"),
        ({"guidance": 2.0}, "guidance must be a Guidance, not 2.0"),
        ({"context_noise": 0.1}, "context_noise must be a ContextNoise or None, not 0.1"),
        ({"codec": "wavelet"}, "codec must be an AutoencoderConfig or None, not 'wavelet'"),
        ({"head": None}, "head must be a HeadConfig, not None"),
        ({"training": {}}, "training must be a DenoiserTraining, not {}"),
        ({"context_source": "shown"}, "context_source must be 'sampled' or 'decoded', not 'shown'"),
    ],
)
def test_what_is_no_part_of_the_family_is_refused(settings, named):
    refused(TINY, named, **settings)


@pytest.mark.parametrize(
    ("target", "process"), [(Velocity(), EDM()), (FlowVelocity(), VariancePreserving()), (Epsilon(), RectifiedFlow())]
)
def test_a_target_without_its_process_is_refused(target, process):
    named = f"target '{target.kind}' does not go with '{process.kind}' noise.*change one of them"
    refused(TINY, named, target=target, process=process)


def test_noise_that_the_denoiser_cannot_be_given_is_refused():
    refused(TINY, "'denoiser_of_flows' is made for 'flow' noise, not 'edm'", denoiser=OfFlows(channels=(8,)))
    dataclasses.replace(TINY, denoiser=OfFlows(channels=(8,)), process=RectifiedFlow(), target=X0())


@pytest.mark.parametrize("config", [TINY, TINY_CROSS], ids=["unet", "cross_dit"])
@pytest.mark.parametrize("schedule", [FullSequence(frames=2), NextFrame(frames=3)], ids=lambda one: one.kind)
def test_a_schedule_of_chunks_with_a_denoiser_of_one_frame_is_refused(config, schedule):
    named = f"'{config.denoiser.kind}' predicts one frame at a time, not {schedule.frames}.*'next_frame'.*'framepack'"
    refused(config, named, schedule=schedule)


def test_a_schedule_that_the_samplers_steps_do_not_allow_is_refused():
    pyramid = Pyramid(frames=2, delay=3)
    refused(TINY_DIT, "delay of 3 rows is longer than the 2 steps of a frame; make it 2", schedule=pyramid)
    chunks = Chunkwise(frames=6, group=2, in_flight=3)
    refused(TINY_DIT, "3 groups in flight do not divide 2 steps", schedule=chunks)


def test_a_learned_variance_of_a_denoiser_without_one_is_refused():
    named = "'causal_dit' learns no variance; sample with variance='least' or 'greatest'"
    refused(TINY_DIT, named, sampler=Ancestral(variance="learned"))


def test_more_steps_than_the_process_has_are_refused():
    refused(
        TINY_DIT,
        "from 1 to 10, the steps of the chain, not 11",
        process=VariancePreserving(steps=10),
        sampler=Euler(steps=11),
    )


def test_rho_without_a_step_that_it_moves_is_refused():
    refused(TINY, "rho has no effect on 2 steps.*leave it at 7.0", process=EDM(sigma_max=5.0, rho=5.0))
    dataclasses.replace(TINY, process=EDM(sigma_max=5.0, rho=5.0), sampler=Euler(steps=3))


@pytest.mark.parametrize("steps", [1, 10])
def test_a_spacing_of_steps_that_have_no_choice_is_refused(steps):
    named = f"{steps} of 10 steps can be spaced in one way only; leave timestep_spacing at 'trailing'"
    process = VariancePreserving(steps=10, timestep_spacing="linspace")
    refused(TINY_DIT, named, process=process, context_noise=None, sampler=Euler(steps=steps))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: DDIM(steps=1, eta=0.5), "an eta of 0.5 has no effect; leave it at 0"),
        (lambda: Ancestral(steps=1, variance="greatest"), "variance='greatest' has no effect; leave it at 'least'"),
        (lambda: Trapezoid(frames=2), "trapezoid of 2 frames has no middle to delay; use 3 or more"),
        (lambda: Chunkwise(frames=4, group=4, in_flight=2), "in_flight=2 has no effect; leave it at 1"),
    ],
)
def test_a_setting_that_other_settings_of_its_part_leave_without_effect_is_refused(make, named):
    with pytest.raises(ConfigError, match=named):
        make()


@pytest.mark.parametrize(
    ("process", "level", "mode"),
    [
        (RectifiedFlow(), 0.0, "scaled"),
        (RectifiedFlow(), 0.0, "labelled"),
        (VariancePreserving(), -1.0, "scaled"),
        (VariancePreserving(), 0.0, "labelled"),
        (EDM(sigma_min=0.02), 0.01, "scaled"),
    ],
)
def test_a_stabilization_that_leaves_frames_as_they_are_is_refused(process, level, mode):
    noise = Stabilization(stabilization_level=level, context_noise_mode=mode)
    refused(TINY_DIT, f"stabilization_level of {level} look as without it", process=process, context_noise=noise)


def test_a_stabilization_between_two_steps_of_a_chain_is_refused():
    noise = Stabilization(stabilization_level=3.5)
    refused(
        TINY_DIT, "levels of 'vp' noise are whole numbers, so stabilization_level cannot be 3.5", context_noise=noise
    )


def test_frames_ahead_of_latents_that_stand_for_several_frames_are_refused():
    ahead = CrossDiTConfig(context=1, max_time_shift=2)
    named = "predicted ahead one by one, not 4 together: leave max_time_shift at 1, or temporal_stride"
    refused(TINY_CROSS, named, denoiser=ahead, codec=STRIDED, training=training(sequence_length=8))


@pytest.mark.parametrize("config", [TINY, TINY_CROSS, TINY_PACKED], ids=["unet", "cross_dit", "framepack"])
def test_stabilization_of_a_denoiser_with_clean_context_is_refused(config):
    named = f"'{config.denoiser.kind}' is given clean past frames; use 'noise_augmentation', not 'stabilization'"
    refused(config, named, context_noise=Stabilization())


def test_noise_augmentation_of_a_denoiser_with_noise_per_frame_is_refused():
    named = "'causal_dit' is trained on past frames at noise levels of their own; use 'stabilization', not 'noise_aug"
    refused(TINY_DIT, named, context_noise=NoiseAugmentation())


@pytest.mark.parametrize(
    ("process", "level", "levels"),
    [
        (RectifiedFlow(), 15.0, "0.0 .clean. to 1.0"),
        (VariancePreserving(steps=10), 15.0, "-1.0 .clean. to 9.0"),
        (VariancePreserving(), -2.0, "-1.0 .clean. to 999.0"),
        (EDM(sigma_max=5.0), 6.0, "0.0 .clean. to 5.0"),
    ],
    ids=lambda one: getattr(one, "kind", str(one)),
)
def test_a_stabilization_at_a_level_that_the_noise_does_not_have_is_refused(process, level, levels):
    named = f"stabilization_level of {level} is none of '{process.kind}' noise, whose levels go from {levels}"
    refused(TINY_DIT, named, process=process, context_noise=Stabilization(stabilization_level=level))


def test_a_mode_of_context_noise_that_shrinks_nothing_is_refused():
    named = "'edm' noise shrinks no frame, so context_noise_mode has no effect; leave it at 'scaled'"
    refused(TINY_DIT, named, process=EDM(sigma_max=5.0), context_noise=LABELLED)


@pytest.mark.parametrize(
    "settings", [{"action_dropout": 0.1}, {"action_dropout": 0.1, "action_guidance_scale": 2.0}], ids=str
)
def test_guidance_by_actions_that_are_not_given_is_refused(settings):
    named = "'deaf_denoiser' takes no actions; leave action_dropout at 0 and action_guidance_scale at 1"
    refused(TINY, named, denoiser=Deaf(channels=(8,)), guidance=Guidance(**settings))


def test_context_dropout_of_a_denoiser_that_needs_none_is_refused():
    named = "'causal_dit' learns to do without a past from past frames of pure noise; leave context_dropout at 0"
    refused(TINY_DIT, named, guidance=Guidance(context_dropout=0.1))
    dataclasses.replace(TINY_DIT, guidance=Guidance(context_guidance_scale=2.0))


@pytest.mark.parametrize("name", ["action", "context"])
@pytest.mark.parametrize("scale", [2.0, 0.5])
def test_guidance_without_dropout_is_refused(name, scale):
    named = f"{name}_guidance_scale is {scale}.*train with {name}_dropout above 0, or leave {name}_guidance_scale at 1"
    refused(TINY, named, guidance=Guidance(**{f"{name}_guidance_scale": scale}))
    dataclasses.replace(TINY, guidance=Guidance(**{f"{name}_guidance_scale": scale, f"{name}_dropout": 0.1}))


def test_rounding_of_latents_is_refused():
    named = "quantize_x0 rounds pixels, but 'conv_vae' latents are sampled; leave it out"
    refused(TINY_LATENT, named, sampler=Euler(quantize_x0=True))
    dataclasses.replace(TINY, sampler=Euler(quantize_x0=True), context_source="sampled")


def test_quantized_frames_are_context_as_they_were_sampled() -> None:
    refused(TINY, "leave context_source at 'sampled'", sampler=Euler(quantize_x0=True), context_source="decoded")


def test_a_head_that_watches_latents_that_there_are_not_is_refused():
    named = "a latent for every frame, and there is no codec; let it watch the 'frame'"
    refused(TINY, named, head=LATENT_HEAD)
    named = "a latent for every frame, and there is a latent for 2 frames; let it watch the 'frame'"
    refused(TINY_LATENT, named, codec=dataclasses.replace(TINY_CODEC, temporal_stride=2))


@pytest.mark.parametrize(
    "settings",
    [
        {"process": EDM(sigma_max=5.0)},
        {"process": RectifiedFlow()},
        {"process": RectifiedFlow(shift=3.0, logit_std=None)},
        {"process": VariancePreserving()},
        {"target": FlowVelocity()},
    ],
    ids=str,
)
def test_shortcuts_of_other_noise_or_targets_are_refused(settings):
    named = (
        r"shortcuts need RectifiedFlow\(logit_std=None\) noise and the target X0\(\), not .*"
        + type(next(iter(settings.values()))).__name__
    )
    refused(TINY_SHORTCUT, named, context_noise=Stabilization(stabilization_level=1.0), **settings)


def test_shortcuts_of_a_denoiser_that_is_not_given_the_step_are_refused():
    named = "'unet' cannot be given the size of a step; shortcuts need 'causal_dit', 'cross_dit' or 'framepack'"
    refused(TINY_SHORTCUT, named, denoiser=TINY.denoiser, context_noise=None)
    for config in (TINY_CROSS, TINY_PACKED):
        dataclasses.replace(TINY_SHORTCUT, denoiser=config.denoiser, context_noise=None)


@pytest.mark.parametrize("settings", [{"loss_weighting": "velocity"}, {"motion_weight": 0.5}], ids=str)
def test_shortcuts_with_weights_of_errors_are_refused(settings):
    named = f"leave loss_weighting at 'plain' and motion_weight at 0, not .*{next(iter(settings.values()))}"
    refused(TINY_SHORTCUT, named, training=training(**settings))


def test_windows_that_chunks_do_not_divide_are_refused():
    named = "windows of 6 steps cannot be cut into chunks of 4; make sequence_length a multiple of 4"
    refused(TINY_DIT, named, schedule=FullSequence(frames=4))


def test_windows_that_the_codecs_temporal_stride_does_not_divide_are_refused():
    named = "windows of 6 steps cannot be cut into chunks of 4; make sequence_length a multiple of 4"
    refused(TINY_LATENT, named, codec=STRIDED, head=TINY.head)
    fits = dataclasses.replace(with_training(TINY_LATENT, sequence_length=12), codec=STRIDED, head=TINY.head)
    named = "windows of 12 steps cannot be cut into chunks of 8"
    refused(fits, named, schedule=FullSequence(frames=2))


@pytest.mark.parametrize(
    ("denoiser", "context"),
    [
        (UNetConfig(context=7, channels=(8,)), 7),
        (CrossDiTConfig(context=9), 9),
        (FramePackConfig(), 19),
    ],
    ids=["unet", "cross_dit", "framepack"],
)
def test_a_context_longer_than_the_windows_is_refused(denoiser, context):
    named = (
        rf"context of {context} frames is longer than the windows of 6 steps.*make sequence_length larger, or.*shorter"
    )
    refused(TINY, named, denoiser=denoiser)


def test_a_context_of_latents_is_counted_in_frames():
    config = with_denoiser(with_training(TINY_LATENT, sequence_length=8), context=2)
    refused(
        with_denoiser(config, context=3),
        "context of 12 frames is longer than the windows of 8",
        codec=STRIDED,
        head=TINY.head,
    )
    dataclasses.replace(config, codec=STRIDED, head=TINY.head)


def test_time_shifts_beyond_the_windows_are_refused():
    named = (
        "shifts of 9 steps cannot be learned in windows of 6; make sequence_length larger, or max_time_shift smaller"
    )
    refused(TINY_CROSS, named, denoiser=dataclasses.replace(TINY_CROSS.denoiser, max_time_shift=9))
    with_denoiser(TINY_CROSS, max_time_shift=6)


@pytest.mark.parametrize(
    "settings",
    [{"process": EDM(sigma_max=5.0), "context_noise": None}, {"target": Velocity()}, {"target": Epsilon()}],
    ids=str,
)
def test_errors_of_anything_but_x0_cannot_count_as_its_velocitys(settings):
    named = (
        r"loss_weighting='velocity' goes with the target X0\(\) of 'vp' or 'flow' noise, not with .*leave it at 'plain'"
    )
    refused(TINY_DIT, named, training=training(loss_weighting="velocity"), **settings)
    dataclasses.replace(TINY_DIT, training=training(loss_weighting="velocity"))
