"""Sampling frames out of noise, straight through a scheduling matrix, with guidance."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dreamenv.backbones.denoising.presentation import Presentation
from dreamenv.denoisers.base import Cache, Denoiser
from dreamenv.diffusion.guidance import Guidance, guide
from dreamenv.diffusion.preconditioning import Prediction, per_frame, quantize_prediction
from dreamenv.diffusion.sampler import PreviousStep, Sampler, SamplingStep
from dreamenv.diffusion.schedule import Schedule
from dreamenv.randomness import normal
from dreamenv.world_model import State

__all__ = ["FrameSampler", "row_noise"]

_NOISE_STREAM = 0  # the stream of the noise that a frame begins as; steps that need more use those after it


class FrameSampler:
    """Samples a chunk of frames.

    Args:
        presentation: of frames to the denoiser.
        sampler: what a step does.
        schedule: who is denoised when.
        guidance: by actions and past.
    """

    def __init__(self, presentation: Presentation, sampler: Sampler, schedule: Schedule, guidance: Guidance) -> None:
        self.presentation, self.sampler, self.guidance = presentation, sampler, guidance
        self.preconditioning = presentation.preconditioning
        self.process = self.preconditioning.process
        self.group_size = schedule.group_size
        self._levels = schedule.matrix(sampler.steps).levels(self.process)
        noisiest = float(self.process.alpha_sigma(self.process.sampling_levels(sampler.steps)[0])[1])
        self.init_sigma = noisiest if sampler.init_noise_sigma is None else sampler.init_noise_sigma

    def block_ids(self, frames: Tensor) -> Tensor:
        """Return the blocks (f,) in which frames (b, f, ...) are denoised."""
        return torch.arange(frames.shape[1], device=frames.device) // self.group_size

    def sample(
        self,
        denoiser: Denoiser,
        state: State,
        shape: tuple[int, ...],
        actions: Tensor,
        *,
        time_shift: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Sample the frames (b, f, c, h, w) that vectors of actions (b, f, a) lead to.

        Args:
            denoiser: the network.
            state: with its cache, and the rows' random streams and temperatures.
            shape: (c, h, w) of a frame as the denoiser has it.
            actions: of the chunk, or of the one frame that lies ``time_shift`` steps ahead.
            time_shift: see `DenoiserInput`; None where the denoiser is not given it.

        Returns:
            The frames, and the first prediction of them, from noise alone.
        """
        b, f = actions.shape[:2]
        empty = None
        if self.guidance.context_guidance_scale != 1:  # predictions without a past are needed, too
            empty = denoiser.init_cache(actions.new_zeros(b, *shape))
        levels = self._levels.to(actions.device, non_blocking=True)
        noisy = self.init_sigma * row_noise(state, shape, f, _NOISE_STREAM)
        previous: PreviousStep | None = None
        first = noisy
        for number in range(len(levels) - 1):
            level, next_level = (row.expand(b, -1) for row in levels[number : number + 2])
            noise = row_noise(state, shape, f, _NOISE_STREAM + 1 + number) if self.sampler.stochastic else None
            this = SamplingStep(self.process, noisy, level, next_level, noise, previous)
            found = self._predict(denoiser, state, noisy, level, actions, empty, time_shift)
            first = found.frame if number == 0 else first
            noisy, previous = self.sampler.step(this, found)
            if self.sampler.corrects and number < len(levels) - 2:
                arrived = self._predict(denoiser, state, noisy, next_level, actions, empty, time_shift)
                noisy = self.sampler.correct(this, found, arrived)
        return noisy, first

    def _predict(
        self,
        denoiser: Denoiser,
        cache: Mapping[str, Tensor],
        noisy: Tensor,
        level: Tensor,
        actions: Tensor,
        empty: Cache | None,
        time_shift: int | None,
    ) -> Prediction:
        output = self._forward(denoiser, cache, noisy, level, actions, time_shift)
        variance = None
        if output.shape[2] > noisy.shape[2]:  # the network predicts the variance of the step, too
            output, variance = output.chunk(2, dim=2)
            variance = (variance + 1) / 2
        scales, nothing = self.guidance, torch.zeros_like(actions)
        by_past, by_actions = scales.context_guidance_scale, scales.action_guidance_scale
        if by_actions != 1:
            past = self._forward(denoiser, cache, noisy, level, nothing, time_shift)
            if empty is None:
                output = guide(past, {"actions": output}, {"actions": by_actions})
            else:
                without = self._forward(denoiser, empty, noisy, level, nothing, time_shift)
                # What actions add is what the network predicts beyond the past alone.
                given = {"past": past, "actions": without + output - past}
                output = guide(without, given, {"past": by_past, "actions": by_actions})
        elif empty is not None:  # hidden actions, which it may not have learned, are not asked about
            without = self._forward(denoiser, empty, noisy, level, actions, time_shift)
            output = guide(without, {"past": output}, {"past": by_past})
        found = self.preconditioning.read(output, noisy, level, variance)
        return quantize_prediction(found, noisy, level, self.process) if self.sampler.quantize_x0 else found

    def _forward(
        self,
        denoiser: Denoiser,
        cache: Mapping[str, Tensor],
        noisy: Tensor,
        level: Tensor,
        actions: Tensor,
        time_shift: int | None,
    ) -> Tensor:
        size = self.sampler.step_size
        given = self.presentation.noisy(
            noisy,
            level,
            actions,
            step_size=None if size is None else torch.full_like(level, size),
            time_shift=None if time_shift is None else torch.full_like(level, float(time_shift)),
            block_ids=self.block_ids(noisy),
        )
        return denoiser.forward_cached(cache, given).float()


def row_noise(state: State, shape: tuple[int, ...], frames: int, stream: int, *, tempered: bool = True) -> Tensor:
    """Return standard normal noise (b, frames, *shape) of the rows' own streams, times their temperature."""
    samples = [normal(state["rng_key"], state["rng_counter"] + i, shape, stream=stream) for i in range(frames)]
    noise = torch.stack(samples, dim=1)
    return noise * per_frame(state["temperature"], noise) if tempered else noise
