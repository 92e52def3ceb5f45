"""Which parts of a denoising world go together: a part knows nothing of the others, so it is said here."""

from __future__ import annotations

import torch

from dreamenv.backbones.denoising.training import DenoiserTraining
from dreamenv.codecs.base import AutoencoderConfig
from dreamenv.denoisers.base import DenoiserConfig
from dreamenv.diffusion.context_noise import ContextNoise, NoiseAugmentation, Stabilization
from dreamenv.diffusion.guidance import Guidance
from dreamenv.diffusion.preconditioning import Preconditioning
from dreamenv.diffusion.process import EDM, NoiseProcess, RectifiedFlow, VariancePreserving
from dreamenv.diffusion.sampler import Ancestral, Sampler
from dreamenv.diffusion.schedule import Schedule
from dreamenv.diffusion.shortcut import Shortcut
from dreamenv.diffusion.target import X0, Target
from dreamenv.errors import ConfigError
from dreamenv.heads.base import HeadConfig

__all__ = ["check_parts"]


def check_parts(
    *,
    denoiser: DenoiserConfig,
    process: NoiseProcess,
    target: Target,
    sampler: Sampler,
    schedule: Schedule,
    guidance: Guidance,
    context_noise: ContextNoise | None,
    codec: AutoencoderConfig | None,
    head: HeadConfig,
    context_source: str,
    training: DenoiserTraining,
) -> None:
    """Refuse parts that do not go together, and settings that would have no effect.

    Raises:
        ConfigError: names what was found, and what would do.
    """
    Preconditioning(process, target)
    _check_schedule(denoiser, process, sampler, schedule)
    _check_context(denoiser, process, sampler, context_noise)
    _check_guidance(denoiser, guidance)
    _check_codec(codec, sampler, head, context_source)
    _check_shortcut(denoiser, process, target, sampler, training)
    _check_windows(denoiser, training, schedule.frames, codec.frames_per_latent if codec else 1)
    _check_weighting(process, target, training)


def _check_schedule(denoiser: DenoiserConfig, process: NoiseProcess, sampler: Sampler, schedule: Schedule) -> None:
    """Refuse noise that the denoiser cannot be given, and orders of frames that it cannot predict."""
    if denoiser.noise_processes and process.kind not in denoiser.noise_processes:
        raise ConfigError(
            f"the denoiser {denoiser.kind!r} is made for {' or '.join(map(repr, denoiser.noise_processes))} noise, not "
            f"{process.kind!r}."
        )
    if schedule.frames > 1 and not denoiser.predicts_chunks:
        raise ConfigError(
            f"the denoiser {denoiser.kind!r} predicts one frame at a time, not {schedule.frames}; use the schedule "
            "'next_frame' with frames=1, or 'causal_dit' or 'framepack'."
        )
    if isinstance(sampler, Ancestral) and sampler.variance == "learned" and not denoiser.learns_variance:
        raise ConfigError(
            f"the denoiser {denoiser.kind!r} learns no variance; sample with variance='least' or 'greatest'."
        )
    schedule.matrix(sampler.steps).levels(process)


def _check_context(
    denoiser: DenoiserConfig, process: NoiseProcess, sampler: Sampler, context_noise: ContextNoise | None
) -> None:
    """Refuse a presentation of past frames that would have no effect, or at a level that the noise does not have."""
    if isinstance(context_noise, Stabilization) and not denoiser.per_frame_noise:
        raise ConfigError(
            f"the denoiser {denoiser.kind!r} is given clean past frames; use 'noise_augmentation', not 'stabilization'."
        )
    if isinstance(context_noise, NoiseAugmentation) and denoiser.per_frame_noise:
        raise ConfigError(
            f"the denoiser {denoiser.kind!r} is trained on past frames at noise levels of their own; use "
            "'stabilization', not 'noise_augmentation'."
        )
    if not isinstance(context_noise, Stabilization):
        return
    level, noisiest = context_noise.stabilization_level, float(process.sampling_levels(sampler.steps)[0])
    if not process.clean <= level <= noisiest:
        raise ConfigError(
            f"a stabilization_level of {level} is none of {process.kind!r} noise, whose levels go from {process.clean} "
            f"(clean) to {noisiest}."
        )
    if isinstance(process, VariancePreserving) and level != int(level):
        raise ConfigError(f"the levels of 'vp' noise are whole numbers, so stabilization_level cannot be {level}.")
    found, clean = torch.tensor(float(level)), torch.tensor(process.clean)
    scaled = context_noise.context_noise_mode == "scaled" and process.alpha_sigma(found)[0] < 1
    if process.time(found) == process.time(clean) and not scaled:
        raise ConfigError(
            f"past frames at a stabilization_level of {level} look as without it; make it larger, or leave "
            "context_noise at None."
        )
    if context_noise.context_noise_mode == "labelled" and isinstance(process, EDM):
        raise ConfigError("'edm' noise shrinks no frame, so context_noise_mode has no effect; leave it at 'scaled'.")


def _check_guidance(denoiser: DenoiserConfig, guidance: Guidance) -> None:
    """Refuse guidance by what the denoiser never learns to do without."""
    if not denoiser.takes_actions and (guidance.action_dropout or guidance.action_guidance_scale != 1):
        raise ConfigError(
            f"the denoiser {denoiser.kind!r} takes no actions; leave action_dropout at 0 and action_guidance_scale at "
            "1."
        )
    if denoiser.per_frame_noise and guidance.context_dropout:
        raise ConfigError(
            f"the denoiser {denoiser.kind!r} learns to do without a past from past frames of pure noise; leave "
            "context_dropout at 0."
        )
    for name in ("action", "context"):
        learned = getattr(guidance, f"{name}_dropout") > 0 or (name == "context" and denoiser.per_frame_noise)
        scale = getattr(guidance, f"{name}_guidance_scale")
        if scale != 1 and not learned:
            raise ConfigError(
                f"{name}_guidance_scale is {scale}, but the denoiser never learns to do without: train with "
                f"{name}_dropout above 0, or leave {name}_guidance_scale at 1."
            )


def _check_codec(codec: AutoencoderConfig | None, sampler: Sampler, head: HeadConfig, context_source: str) -> None:
    """Refuse what only pixels have, or only latents."""
    if codec is not None and sampler.quantize_x0:
        raise ConfigError(f"quantize_x0 rounds pixels, but {codec.kind!r} latents are sampled; leave it out.")
    if sampler.quantize_x0 and context_source == "decoded":
        raise ConfigError(
            "frames that are sampled with quantize_x0 are what a user sees already; leave context_source at 'sampled'."
        )
    if head.watches == "latent" and (codec is None or codec.frames_per_latent > 1):
        found = "no codec" if codec is None else f"a latent for {codec.frames_per_latent} frames"
        raise ConfigError(
            f"a head that watches latents needs a codec with a latent for every frame, and there is {found}; let it "
            "watch the 'frame'."
        )


def _check_shortcut(
    denoiser: DenoiserConfig, process: NoiseProcess, target: Target, sampler: Sampler, training: DenoiserTraining
) -> None:
    """Refuse shortcuts with what they are not made of."""
    if not isinstance(sampler, Shortcut):
        return
    flow = isinstance(process, RectifiedFlow) and process.shift == 1 and process.logit_std is None
    if not (flow and isinstance(target, X0)):
        raise ConfigError(
            f"shortcuts need RectifiedFlow(logit_std=None) noise and the target X0(), not {process} and {target}."
        )
    if not denoiser.takes_step_size:
        raise ConfigError(
            f"the denoiser {denoiser.kind!r} cannot be given the size of a step; shortcuts need 'causal_dit', "
            "'cross_dit' or 'framepack'."
        )
    if training.loss_weighting != "plain" or training.motion_weight:
        raise ConfigError(
            "shortcuts weigh errors in their own way: leave loss_weighting at 'plain' and motion_weight at 0, not "
            f"{training.loss_weighting!r} and {training.motion_weight}."
        )


def _check_windows(denoiser: DenoiserConfig, training: DenoiserTraining, chunk: int, frames_per_latent: int) -> None:
    """Refuse windows that do not hold what is to be learned."""
    frames_at_once = chunk * frames_per_latent
    length = training.sequence_length
    if length % frames_at_once:
        raise ConfigError(
            f"windows of {length} steps cannot be cut into chunks of {frames_at_once}; make sequence_length a multiple "
            f"of {frames_at_once}."
        )
    context = denoiser.context_frames * frames_per_latent
    if context > length:
        raise ConfigError(
            f"a context of {context} frames is longer than the windows of {length} steps that it is trained on; make "
            "sequence_length larger, or the denoiser's context (or packing) shorter."
        )
    if denoiser.shift_range > 1 and frames_at_once > 1:
        raise ConfigError(
            f"frames are predicted ahead one by one, not {frames_at_once} together: leave max_time_shift at 1, or "
            "temporal_stride."
        )
    if denoiser.shift_range > length and not denoiser.pretrained:
        raise ConfigError(
            f"time shifts of {denoiser.shift_range} steps cannot be learned in windows of {length}; make "
            "sequence_length larger, or max_time_shift smaller."
        )


def _check_weighting(process: NoiseProcess, target: Target, training: DenoiserTraining) -> None:
    """Refuse weights of errors that do not fit the prediction."""
    if training.loss_weighting == "velocity" and (not isinstance(target, X0) or isinstance(process, EDM)):
        raise ConfigError(
            "loss_weighting='velocity' goes with the target X0() of 'vp' or 'flow' noise, not with "
            f"{target.kind!r} of {process.kind!r}; leave it at 'plain'."
        )
