"""A world that draws its frames out of noise, one or a few at a time, given those before and the actions.

Which network draws, and how it remembers, is one choice (`networks`): past frames stacked as channels of a U-Net, or
keys and values of a causal transformer. Who is denoised when within a chunk is another (`dreamenv.diffusion.forcing`).
Reward and ending come from a memory of their own (`events`). Noise is drawn from the row's own stream, and scaled by
its temperature.

State: ``frame`` (b, c, h, w) in [0, 1], the present one; ``memory`` (b, m) of the events; the network's own entries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dreamenv.backbones.denoising.causal import CausalFrames
from dreamenv.backbones.denoising.config import DenoisingConfig
from dreamenv.backbones.denoising.events import Events
from dreamenv.backbones.denoising.networks import FrameNetwork
from dreamenv.backbones.denoising.stacked import StackedFrames
from dreamenv.diffusion.forcing import denoise_all
from dreamenv.diffusion.objective import add_noise, denoising_error, draw_levels
from dreamenv.diffusion.targets import Prediction, per_frame
from dreamenv.nn.actions import ActionVector
from dreamenv.nn.precision import autocast
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

_NETWORKS: dict[str, type[StackedFrames] | type[CausalFrames]] = {"unet": StackedFrames, "dit": CausalFrames}
_NOISE_STREAM = 0  # the stream of the noise that a frame begins as; passes that draw more use those after it


class DenoisingWorld(nn.Module):
    """The model. Parameters only; memory travels in the state."""

    def __init__(self, config: DenoisingConfig, spec: WorldModelSpec) -> None:
        super().__init__()
        self.config = config
        self.spec = dataclasses.replace(spec, context_frames=config.context, chunk=config.chunk)
        self._observed = dataclasses.replace(self.spec, chunk=1)  # what happened need not come in chunks
        self.process, self.target, self.sampler = config.process, config.make_target(), config.make_sampler()
        self.action = ActionVector(spec.action_space)
        self.embedding_size = 2 * config.memory
        self.network: FrameNetwork = _NETWORKS[config.network](config, spec.frame_shape, self.action.size)
        self.events = Events(config, spec.frame_shape, self.action.size)

    # The contract

    def start(self, first_frame: Tensor, seed: Tensor) -> State:
        """Remember the first frame alone."""
        check_first_frame(self.spec, first_frame, seed)
        nothing = torch.zeros(first_frame.shape[0], 1, self.action.size, device=first_frame.device)
        past = self.network.remember(self.network.begin(first_frame), _inside(first_frame)[:, None], nothing)
        memory = torch.zeros(first_frame.shape[0], self.config.memory, device=first_frame.device)
        return new_state(seed, {"frame": first_frame, "memory": memory, **past})

    def observe(self, state: State, actions: Tensor, frames: Tensor) -> State:
        """Remember what happened."""
        check_actions(self._observed, actions)
        check_frames(self.spec, actions, frames)
        check_state(state, actions, ("frame", "memory"))
        state = state.copy()
        self._advance(state, self.action(actions), frames)
        return state

    def imagine(self, state: State, actions: Tensor, *, decode: bool = True) -> tuple[Imagined, State]:
        """Draw one chunk after the other. Frames are drawn even if not asked for: the next ones are made from them."""
        check_actions(self.spec, actions)
        check_state(state, actions, ("frame", "memory"))
        state = state.copy()
        frames, memories = [], []
        for vectors in self.action(actions).split(self.config.chunk, dim=1):
            drawn = self._draw(state, vectors)
            memories.append(self._advance(state, vectors, drawn))
            frames.append(drawn)
        rewards, endings = self.events.tell(torch.cat(memories, dim=1))
        return Imagined(torch.cat(frames, dim=1) if decode else None, rewards, endings), state

    def embed(self, state: State) -> Tensor:
        """The events' memory, and what it sees in the present frame."""
        return torch.cat((state["memory"], self.events.look(state["frame"])), dim=-1)

    def calibrate(self, statistics: DataStatistics) -> None:
        """Take the range of rewards and the rate of endings from the data."""
        self.events.calibrate(statistics)

    def stages(self) -> Sequence[Stage]:
        """Frames, then rewards and endings: two networks that do not need each other."""
        config = self.config
        return (
            Stage(
                name="denoiser",
                objectives=[Objective("denoiser", list(self.network.parameters()), self.denoising_loss)],
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
        """Every frame of the window after the first out of noise, given those before it in the window."""
        frames = _inside(torch.cat((batch.first_frame[:, None], batch.frames), dim=1))
        vectors = self.action(batch.actions)
        actions = torch.cat((torch.zeros_like(vectors[:, :1]), vectors), dim=1)
        uniform = torch.rand(frames.shape[:2], generator=batch.generator, device=frames.device)
        noise = torch.randn(frames.shape, generator=batch.generator, device=frames.device)
        # Chunks begin after the first frame, which has a level of its own.
        first, later = uniform[:, :1], uniform[:, 1:]
        level = torch.cat(
            [
                draw_levels(self.process, first, "independent"),
                draw_levels(self.process, later, "chunks", self.config.chunk),
            ],
            dim=1,
        )
        noisy = add_noise(self.process, frames, noise, level)
        with autocast(frames.device, self.config.bfloat16 and self.training):
            output = self.network.predict_all(frames, noisy, level, actions)
        error = denoising_error(self.target, output.float(), frames, noise, level)[:, 1:]
        kept = batch.weight * ~batch.terminated  # a terminal frame may be anything
        loss = (error * kept).sum() / kept.sum().clamp_min(1e-8)
        return loss, {"denoising": loss.detach()}

    def events_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Rewards and endings."""
        return self.events.loss(self.action(batch.actions), batch)

    # Pieces

    def _draw(self, state: State, actions: Tensor) -> Tensor:
        """Draw the frames (b, f, c, h, w) in [0, 1] that actions (b, f, a) lead to."""
        f = actions.shape[1]

        def denoise(noisy: Tensor, level: Tensor) -> Prediction:
            return self.target.read(self.network.predict(state, noisy, level, actions), noisy, level)

        def fresh(stream: int) -> Tensor:
            drawn = [
                normal(state["rng_key"], state["rng_counter"] + i, self.spec.frame_shape, stream=stream)
                for i in range(f)
            ]
            return torch.stack(drawn, dim=1) * per_frame(state["temperature"], actions)[..., None, None]

        _, sigma = self.process.at(self.process.spacing(self.config.passes)[0])
        clean = denoise_all(
            self.config.make_plan(), self.process, self.sampler, denoise, float(sigma) * fresh(_NOISE_STREAM),
            draw=lambda number: fresh(_NOISE_STREAM + 1 + number),
        )  # fmt: skip
        frames: Tensor = ((clean + 1) / 2).clamp(0, 1)
        if self.config.quantise:
            frames = frames.mul(255).round().div(255)
        return frames

    def _advance(self, state: State, actions: Tensor, frames: Tensor) -> Tensor:
        """Take frames (b, f, c, h, w) into the state, in place; return the memories (b, f, m) that foretold them."""
        before = torch.cat((state["frame"][:, None], frames[:, :-1]), dim=1)
        seen = self.events.look(before.flatten(0, 1)).unflatten(0, before.shape[:2])
        memories = []
        for i in range(frames.shape[1]):
            state["memory"] = self.events.step(state["memory"], seen[:, i], actions[:, i])
            memories.append(state["memory"])
        state.update(self.network.remember(state, _inside(frames), actions))
        state["frame"] = frames[:, -1]
        state["rng_counter"] = state["rng_counter"] + frames.shape[1]
        return torch.stack(memories, dim=1)


def _inside(frames: Tensor) -> Tensor:
    """From [0, 1] to [-1, 1]."""
    return 2 * frames - 1
