"""A world that draws each next frame out of noise, given the last frames and actions.

This is the form of DIAMOND (Alonso et al. 2024). The last few frames are stacked below the noisy one as channels of a
U-Net; the actions among them and the noise level condition its every block. Reward and ending come from a memory of
their own (`events`). Noise is drawn from the row's own stream, and scaled by its temperature.

State: ``frames`` (b, n, c, h, w) in [0, 1], newest last, grey where there was none yet; ``actions`` (b, n - 1, a), the
vectors of the actions that led from each to the next, 0 where there was none; ``memory`` (b, m).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from dreamenv.backbones.denoising.config import DenoisingConfig
from dreamenv.backbones.denoising.events import Events
from dreamenv.diffusion.forcing import denoise_all, next_frame
from dreamenv.diffusion.objective import add_noise, denoising_error
from dreamenv.diffusion.targets import Prediction, per_frame
from dreamenv.nn.actions import ActionVector
from dreamenv.nn.precision import autocast
from dreamenv.nn.unet import FourierFeatures, UNet
from dreamenv.randomness import normal
from dreamenv.world_model import (
    Batch,
    DataStatistics,
    Imagined,
    Objective,
    Stage,
    State,
    WorldModelSpec,
    check_actions,
    check_first_frame,
    check_frames,
    check_state,
    new_state,
)

__all__ = ["DenoisingWorld"]

_GREY = 0.5  # a frame that never was
_ENTRIES = ("frames", "actions", "memory")
_NOISE_STREAM = 0  # the stream of the noise that a frame begins as; passes that draw more use those after it


class DenoisingWorld(nn.Module):
    """The model. Parameters only; context travels in the state."""

    def __init__(self, config: DenoisingConfig, spec: WorldModelSpec) -> None:
        super().__init__()
        self.config, self.spec = config, dataclasses.replace(spec, context_frames=config.context)
        self.process, self.target, self.sampler = config.process, config.make_target(), config.make_sampler()
        c, h, w = spec.frame_shape
        self.action = ActionVector(spec.action_space)
        self.embedding_size = 2 * config.memory
        self.level = FourierFeatures(config.condition)
        self.acts = nn.Linear(config.context * self.action.size, config.condition)
        self.condition = nn.Sequential(
            nn.Linear(config.condition, config.condition), nn.SiLU(), nn.Linear(config.condition, config.condition)
        )
        self.unet = UNet(
            (h, w), (config.context + 1) * c, c, config.condition, config.channels, config.blocks, config.patch
        )
        self.events = Events(config, spec.frame_shape, self.action.size)

    # The contract

    def start(self, first_frame: Tensor, seed: Tensor) -> State:
        """Remember the first frame alone."""
        check_first_frame(self.spec, first_frame, seed)
        b, n = first_frame.shape[0], self.config.context
        before = torch.full((b, n - 1, *self.spec.frame_shape), _GREY, device=first_frame.device)
        memory = {
            "frames": torch.cat((before, first_frame[:, None]), dim=1),
            "actions": torch.zeros(b, n - 1, self.action.size, device=first_frame.device),
            "memory": torch.zeros(b, self.config.memory, device=first_frame.device),
        }
        return new_state(seed, memory)

    def observe(self, state: State, actions: Tensor, frames: Tensor) -> State:
        """Remember the last frames, and let the memory see all of them."""
        check_actions(self.spec, actions)
        check_frames(self.spec, actions, frames)
        check_state(state, actions, _ENTRIES)
        vectors, state = self.action(actions), state.copy()
        for i in range(actions.shape[1]):
            state["memory"] = self._foretell(state, vectors[:, i])
            state = self._advanced(state, vectors[:, i], frames[:, i])
        return state

    def imagine(self, state: State, actions: Tensor, *, decode: bool = True) -> tuple[Imagined, State]:
        """Draw one frame after the other. A frame is drawn even if not asked for: the next one is made from it."""
        check_actions(self.spec, actions)
        check_state(state, actions, _ENTRIES)
        vectors, state = self.action(actions), state.copy()
        frames, memories = [], []
        for i in range(actions.shape[1]):
            state["memory"] = self._foretell(state, vectors[:, i])
            frame = self._draw(state, vectors[:, i])
            state = self._advanced(state, vectors[:, i], frame)
            frames.append(frame)
            memories.append(state["memory"])
        rewards, endings = self.events.tell(torch.stack(memories, dim=1))
        return Imagined(torch.stack(frames, dim=1) if decode else None, rewards, endings), state

    def embed(self, state: State) -> Tensor:
        """The memory, and what it sees in the present frame."""
        return torch.cat((state["memory"], self.events.look(state["frames"][:, -1])), dim=-1)

    def calibrate(self, statistics: DataStatistics) -> None:
        """Take the range of rewards and the rate of endings from the data."""
        self.events.calibrate(statistics)

    def stages(self) -> Sequence[Stage]:
        """Frames, then rewards and endings: two networks that do not need each other."""
        config = self.config
        denoiser = [p for part in (self.acts, self.condition, self.unet) for p in part.parameters()]
        return (
            Stage(
                name="denoiser",
                objectives=[Objective("denoiser", denoiser, self.denoising_loss)],
                steps=config.denoiser_steps,
                batch_size=config.denoiser_batch,
                sequence_length=config.denoiser_length,
                learning_rate=config.denoiser_rate,
            ),
            Stage(
                name="events",
                objectives=[Objective("events", list(self.events.parameters()), self.events_loss)],
                steps=config.events_steps,
                batch_size=config.events_batch,
                sequence_length=config.events_length,
                learning_rate=config.events_rate,
            ),
        )

    # What is learned

    def denoising_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Every frame of the window out of noise, given those before it in the window."""
        n, (b, t) = self.config.context, batch.actions.shape[:2]
        frames = torch.cat((batch.first_frame[:, None], batch.frames), dim=1)
        grey = torch.full_like(frames[:, :1], _GREY).expand(-1, n - 1, -1, -1, -1)
        past = torch.cat((grey, frames[:, :-1]), dim=1).unfold(1, n, 1)  # b t c h w n
        vectors = self.action(batch.actions)
        nothing = torch.zeros_like(vectors[:, :1]).expand(-1, n - 1, -1)
        led = torch.cat((nothing, vectors), dim=1).unfold(1, n, 1)  # b t a n
        context, acts = rearrange(past, "b t c h w n -> (b t) n c h w"), rearrange(led, "b t a n -> (b t) n a")
        wanted = _inside(rearrange(batch.frames, "b t c h w -> (b t) 1 c h w"))
        level = self.process.draw(torch.rand(wanted.shape[:2], generator=batch.generator, device=wanted.device))
        noise = torch.randn(wanted.shape, generator=batch.generator, device=wanted.device)
        with autocast(wanted.device, self.config.bfloat16 and self.training):
            noisy = add_noise(self.process, wanted, noise, level)
            output = self._network(noisy, level, _inside(context), acts)
        error = denoising_error(self.target, output.float(), wanted, noise, level).reshape(b, t)
        kept = batch.weight * ~batch.terminated  # a terminal frame may be anything
        loss = (error * kept).sum() / kept.sum().clamp_min(1e-8)
        return loss, {"denoising": loss.detach()}

    def events_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Rewards and endings."""
        return self.events.loss(self.action(batch.actions), batch)

    # Pieces

    def _network(self, noisy: Tensor, level: Tensor, context: Tensor, actions: Tensor) -> Tensor:
        """Say the target of noisy frames (n, 1, c, h, w), after frames (n, f, c, h, w) and actions (n, f, a)."""
        time = self.process.time(level)[:, 0]
        condition = self.condition(self.level(time) + self.acts(actions.flatten(1)))
        scaled = noisy * per_frame(self.target.scale(level), noisy)
        stacked = torch.cat((context / self.config.data_std, scaled), dim=1)
        output: Tensor = self.unet(rearrange(stacked, "n f c h w -> n (f c) h w"), condition)
        return output[:, None]

    def _draw(self, state: State, action: Tensor) -> Tensor:
        """Draw the frame (b, c, h, w) in [0, 1] that an action leads to."""
        context = _inside(state["frames"])
        acts = torch.cat((state["actions"], action[:, None]), dim=1)

        def denoise(noisy: Tensor, level: Tensor) -> Prediction:
            return self.target.read(self._network(noisy, level, context, acts), noisy, level)

        def fresh(stream: int) -> Tensor:
            drawn = normal(state["rng_key"], state["rng_counter"], (1, *self.spec.frame_shape), stream=stream)
            return drawn * per_frame(state["temperature"], drawn)

        _, sigma = self.process.at(self.process.spacing(self.config.passes)[0])
        clean = denoise_all(
            next_frame(1, self.config.passes), self.process, self.sampler, denoise, float(sigma) * fresh(_NOISE_STREAM),
            draw=lambda number: fresh(_NOISE_STREAM + 1 + number),
        )  # fmt: skip
        frame: Tensor = ((clean[:, 0] + 1) / 2).clamp(0, 1)
        if self.config.quantise:
            frame = frame.mul(255).round().div(255)
        return frame

    def _foretell(self, state: State, action: Tensor) -> Tensor:
        return self.events.step(state["memory"], self.events.look(state["frames"][:, -1]), action)

    @staticmethod
    def _advanced(state: State, action: Tensor, frame: Tensor) -> State:
        state["frames"] = torch.cat((state["frames"][:, 1:], frame[:, None]), dim=1)
        state["actions"] = torch.cat((state["actions"], action[:, None]), dim=1)[:, 1:]
        state["rng_counter"] = state["rng_counter"] + 1
        return state


def _inside(frames: Tensor) -> Tensor:
    """From [0, 1] to [-1, 1]."""
    return 2 * frames - 1
