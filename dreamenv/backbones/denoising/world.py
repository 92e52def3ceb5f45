"""A world that denoises its frames, one or a few at a time, given those before and the actions.

Its parts are chosen independently: the network and how it remembers (`dreamenv.denoisers`), what noise it undoes and
how (`dreamenv.diffusion`), pixels or latents (`dreamenv.codecs`), and who predicts rewards and terminations
(`dreamenv.heads`). Noise is sampled from the row's own stream, and scaled by its temperature.

State: ``frame`` (b, c, h, w) in [0, 1], the present one, and where the head watches it so its ``latent`` (b, C, H, W);
the head's entries; the denoiser's cache; and those of `history`, where a latent stands for several frames.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dreamenv.backbones.denoising.compatibility import check_parts
from dreamenv.backbones.denoising.history import add_cache, init_history, push_history, whole_latents
from dreamenv.backbones.denoising.presentation import Presentation
from dreamenv.backbones.denoising.sampling import FrameSampler, row_noise
from dreamenv.backbones.denoising.training import DenoiserTraining, DenoisingLoss, make_stage
from dreamenv.codecs.base import AutoencoderConfig
from dreamenv.codecs.codec import Codec
from dreamenv.codecs.pixels import Pixels
from dreamenv.denoisers.base import DenoiserConfig, DenoiserShape
from dreamenv.denoisers.foveated_dit import FoveatedDiT
from dreamenv.denoisers.unet import UNetConfig
from dreamenv.diffusion.context_noise import ContextNoise
from dreamenv.diffusion.guidance import Guidance
from dreamenv.diffusion.preconditioning import Preconditioning
from dreamenv.diffusion.process import EDM, NoiseProcess
from dreamenv.diffusion.sampler import Euler, Sampler
from dreamenv.diffusion.schedule import NextFrame, Schedule
from dreamenv.diffusion.shortcut import Shortcut
from dreamenv.diffusion.target import EDMPreconditioned, Target
from dreamenv.errors import ActionError, ConfigError
from dreamenv.frames import quantize_uint8
from dreamenv.heads.base import HeadConfig, HeadOutput, join_outputs
from dreamenv.heads.recurrent import RecurrentHeadConfig
from dreamenv.nn.precision import store_in_bfloat16
from dreamenv.world_model import (
    BackboneConfig,
    Batch,
    DataStatistics,
    Imagined,
    Stage,
    State,
    StateBounds,
    WorldModel,
    WorldModelSpec,
    check_actions,
    check_first_frame,
    check_frames,
    check_state,
    new_state,
)

__all__ = ["DenoisingConfig", "DenoisingWorld"]

_LATENT_STREAM = 1 << 16  # of latents that are sampled from their distribution; the next one is the first frame's


@dataclass(frozen=True, kw_only=True)
class DenoisingConfig(BackboneConfig, kind="denoising"):
    """The parts of a denoising world. Frames are in [-1, 1] inside it, latents have a spread of about 1.

    Attributes:
        denoiser: the network, and how it sees the past.
        process: of the noise.
        target: what the network predicts.
        sampler: how a frame is sampled, in how many steps.
        schedule: how many frames are denoised together, and when each.
        guidance: by actions and the past.
        context_noise: how past frames are presented; None as they are.
        codec: whose latents are sampled; None samples pixels.
        head: predicts rewards and terminations.
        context_source: what becomes context: frames as they were "sampled", or as they are "decoded", clamped and
            rounded, as a user sees them (DIAMOND), and encoded again if there is a codec (NWM).
        quantize_frames: round each frame to 8 bits.
        training: of the denoiser.

    Raises:
        ConfigError: parts that do not go together, or a setting that would have no effect.
    """

    denoiser: DenoiserConfig = UNetConfig()
    process: NoiseProcess = EDM(sigma_max=5.0, p_mean=-0.4)
    target: Target = EDMPreconditioned()
    sampler: Sampler = Euler(steps=3)
    schedule: Schedule = NextFrame()
    guidance: Guidance = Guidance()
    context_noise: ContextNoise | None = None
    codec: AutoencoderConfig | None = None
    head: HeadConfig = RecurrentHeadConfig()
    context_source: Literal["sampled", "decoded"] = "sampled"
    quantize_frames: bool = True
    training: DenoiserTraining = DenoiserTraining()

    def __post_init__(self) -> None:
        if self.context_source not in ("sampled", "decoded"):
            raise ConfigError(f"context_source must be 'sampled' or 'decoded', not {self.context_source!r}.")
        check_parts(
            denoiser=self.denoiser, process=self.process, target=self.target, sampler=self.sampler,
            schedule=self.schedule, guidance=self.guidance, context_noise=self.context_noise, codec=self.codec,
            head=self.head, context_source=self.context_source, training=self.training,
        )  # fmt: skip

    @property
    def frames_per_latent(self) -> int:
        """Frames of the environment that the denoiser has as one."""
        return self.codec.frames_per_latent if self.codec else 1

    def build(self, spec: WorldModelSpec) -> DenoisingWorld:
        """See `BackboneConfig`."""
        return DenoisingWorld(self, spec)


class DenoisingWorld(WorldModel):
    """The model. Parameters only; memory travels in the state.

    Letters beyond the contract's: ``f`` frames as the denoiser has them, which are latents of ``stride`` frames each
    where there is a codec, and frames themselves where there is none.

    Args:
        config: its parts.
        spec: what it shows and accepts.

    Raises:
        ConfigError: parts that cannot have these frames or actions.
    """

    def __init__(self, config: DenoisingConfig, spec: WorldModelSpec) -> None:
        super().__init__()
        self.config, self.stride = config, config.frames_per_latent
        self.spec = dataclasses.replace(
            spec,
            context_frames=config.denoiser.context_frames * self.stride,
            chunk=config.schedule.frames * self.stride,
            predicts_rewards=config.head.predicts_rewards,
        )
        self._observed = dataclasses.replace(self.spec, chunk=1)  # what happened need not come in chunks
        self.action = config.denoiser.action_encoder(spec.action_space)
        self.codec = Codec(config.codec, spec.frame_shape) if config.codec else Pixels(spec.frame_shape)
        self.latent_shape = self.codec.latent_shape
        shape = DenoiserShape(
            frame_shape=self.latent_shape, discrete=tuple(self.action.discrete), actions_per_frame=self.stride,
            chunk=config.schedule.frames, step_size=config.sampler.step_size is not None,
        )  # fmt: skip
        self.denoiser = config.denoiser.build(shape)
        self._watches_latents = config.head.watches == "latent"
        self.head = config.head.build(
            self.latent_shape if self._watches_latents else spec.frame_shape, self.action.size
        )
        self.embedding_size = self.head.embedding_size
        self._kept = ("frame", *(("latent",) if self._watches_latents else ()), *self.head.entries)
        self._presentation = Presentation(
            Preconditioning(config.process, config.target), config.context_noise, config.sampler.finest_step_size
        )
        self._sampler = FrameSampler(self._presentation, config.sampler, config.schedule, config.guidance)
        self._loss = DenoisingLoss(
            presentation=self._presentation, guidance=config.guidance, group_size=config.schedule.group_size,
            max_time_shift=config.denoiser.shift_range, training=config.training,
            max_steps=config.sampler.max_steps if isinstance(config.sampler, Shortcut) else None,
        )  # fmt: skip
        self._rounded = False
        if isinstance(self.denoiser, FoveatedDiT) and self.denoiser.can_look:
            self.look = self.denoiser.look

    # The contract

    def start(self, first_frame: Tensor, seed: Tensor) -> State:
        """Remember the first frame alone."""
        check_first_frame(self.spec, first_frame, seed)
        b = len(first_frame)
        nothing = first_frame.new_zeros(b, 1, self.action.size)
        empty = {name: first_frame.new_zeros(b, width) for name, width in self.head.entries.items()}
        state = new_state(seed, {"frame": first_frame.clone(), **empty})
        add_cache(state, self.denoiser.init_cache(first_frame.new_zeros(b, *self.latent_shape)))
        if self.stride > 1:
            history = self.config.denoiser.context_frames * self.stride
            state.update(init_history(first_frame, history, self.action.size))
            self._encode_history(state, nothing, first_frame[:, None])
            return state
        latents = self._encode(first_frame[:, None], state, _LATENT_STREAM + 1)
        if self._watches_latents:
            state["latent"] = latents[:, 0]
        self._update_cache(state, latents, nothing)
        return state

    def observe(self, state: State, actions: Tensor, frames: Tensor) -> State:
        """Remember what happened."""
        check_actions(self._observed, actions)
        check_frames(self.spec, actions, frames)
        check_state(state, actions, self._kept)
        state, vectors = state.copy(), self.action(actions)
        if self.stride > 1:
            self._follow(state, vectors, frames)
            self._encode_history(state, vectors, frames)
        else:
            latents = self._encode(frames, state)
            self._follow(state, vectors, frames, latents)
            self._update_cache(state, latents, vectors)
        state["rng_counter"] = state["rng_counter"] + frames.shape[1]
        return state

    def imagine(self, state: State, actions: Tensor, *, decode: bool = True) -> tuple[Imagined, State]:
        """Sample one chunk after the other. Frames are made even if not asked for: the next ones depend on them."""
        check_actions(self.spec, actions)
        check_state(state, actions, self._kept)
        state, chunks = state.copy(), []
        for vectors in self.action(actions).split(self.spec.chunk, dim=1):
            per_latent = self._per_latent(vectors)
            sampled, first = self._sample(state, per_latent)
            frames = self._decode(sampled)
            latents = sampled if self.config.context_source == "sampled" else self._encode(frames, state)
            output = self._follow(state, vectors, frames, latents)
            surprise = (latents - first).square().mean(2)
            self._update_cache(state, latents, per_latent, self._sampler.block_ids(latents), surprise)
            if self.stride > 1:
                push_history(state, vectors, frames)
            state["rng_counter"] = state["rng_counter"] + frames.shape[1]
            chunks.append((frames, output))
        output = join_outputs([output for _, output in chunks])
        frames = torch.cat([frames for frames, _ in chunks], dim=1)
        return Imagined(
            frames if decode else None, output.rewards, output.termination, terminal_rewards=output.terminal_rewards
        ), state

    def stages(self) -> Sequence[Stage]:
        """Return the codec if there is one, the denoiser, and the head: they do not need each other's gradients."""
        config, stages = self.config, []
        described = self.latents if config.codec is not None and self.stride == 1 else None
        if config.codec is not None:
            stages.append(make_stage("codec", self.codec, self.codec_loss, config.codec.training, self.stride))
        training = config.training
        denoiser = make_stage(
            "denoiser", self.denoiser, self.denoising_loss, training, training.sequence_length, described,
            sees_ahead=config.schedule.group_size > 1,
        )  # fmt: skip
        stages.append(denoiser)
        head = config.head.stage
        if head is not None:
            watched = described if self._watches_latents else None
            stages.append(make_stage("head", self.head, self.head_loss, head, head.sequence_length, watched))
        return stages

    # Capabilities

    @property
    def max_time_shift(self) -> int:
        """The most steps ahead that were learned."""
        return self.config.denoiser.shift_range

    def predict_ahead(self, state: State, actions: Tensor) -> Tensor:
        """Predict the frame that actions (b, k, *a) lead to, none of those between: (b, c, h, w) in [0, 1].

        The network is given the mean of the actions, so it cannot tell in which order they were taken. The state is not
        changed.

        Raises:
            ActionError: more steps than `max_time_shift`, or a world that predicts several frames together.
        """
        check_actions(self._observed, actions)
        check_state(state, actions, self._kept)
        shift = actions.shape[1]
        if shift > self.max_time_shift or self.spec.chunk > 1:
            raise ActionError(
                f"this world predicts {self.max_time_shift} steps ahead at most, {self.spec.chunk} frames together, "
                f"not {shift} steps; imagine the steps between, or train with max_time_shift larger."
            )
        return self._decode(self._sample(state, self.action(actions).mean(1, keepdim=True), shift)[0])[:, 0]

    def embed(self, state: State) -> Tensor:
        """Return what the head knows, and what it sees in the present frame."""
        return self.head.embed(state)

    def store_in_bfloat16(self) -> None:
        """Round the weights of products, in place; frames, latents and the head's memory stay float32."""
        store_in_bfloat16(self)
        self._rounded = True

    def compile_networks(self) -> None:
        """Have `torch.compile` make what is called in every step, when it is first called."""
        self.denoiser.forward_cached = torch.compile(self.denoiser.forward_cached)  # type: ignore[method-assign]

    def calibrate(self, statistics: DataStatistics) -> None:
        """Take the range of rewards and the rate of terminations from the data."""
        self.head.calibrate(statistics)

    def state_bounds(self) -> StateBounds:
        """See `WorldModel`."""
        return self.denoiser.cache_bounds()

    # What is learned

    def latents(self, frames: Tensor) -> Tensor:
        """Frames (n, c, h, w) in [0, 1] to the codec's latents (n, C, H, W), which later stages learn from."""
        return self.codec.features(frames[:, None])[:, 0]

    def codec_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Reconstruct frames, and measure latents on the way."""
        assert isinstance(self.codec, Codec)
        return self.codec.loss(batch.frames, batch.generator)

    def denoising_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Predict every frame of the window after the first out of noise, given those before it in the window."""
        vectors = self._per_latent(self.action(batch.actions))
        actions = torch.cat((torch.zeros_like(vectors[:, :1]), vectors), dim=1)
        if batch.features is not None:
            frames = batch.features.float()
        else:
            first = batch.first_frame[:, None].expand(-1, self.stride, -1, -1, -1)
            frames = self.codec.features(torch.cat((first, batch.frames), dim=1))
        error, possible = self._loss(self.denoiser, frames, actions, batch.generator)
        weight = batch.weight * ~batch.terminated  # a terminal frame may be anything
        kept = weight.unflatten(1, (-1, self.stride)).amin(2) * possible[:, 1:]
        loss = (error[:, 1:] * kept).sum() / kept.sum().clamp_min(1e-8)
        return loss, {"denoising": loss.detach()}

    def head_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Predict rewards and terminations."""
        return self.head.loss(self.action(batch.actions), batch)

    # Pieces

    def _sample(self, state: State, actions: Tensor, time_shift: int = 1) -> tuple[Tensor, Tensor]:
        """Sample the frames, as the denoiser has them, that vectors of actions lead to; see `FrameSampler.sample`."""
        shift = time_shift if self.max_time_shift > 1 else None
        with self._precision(actions.device):
            return self._sampler.sample(self.denoiser, state, self.latent_shape, actions, time_shift=shift)

    def _follow(self, state: State, actions: Tensor, frames: Tensor, latents: Tensor | None = None) -> HeadOutput:
        """Let the head take in vectors of actions (b, t, a) and the frames (b, t, c, h, w) they led to, in place.

        Args:
            state: whose memory it is.
            actions: vectors.
            frames: as a user sees them.
            latents: of them, if the head watches those.
        """
        watched = frames
        if self._watches_latents:
            assert latents is not None
            watched = latents
        output = self.head.follow(state, actions, watched)
        if self._watches_latents:
            state["latent"] = watched[:, -1]
        state["frame"] = frames[:, -1].clone()
        return output

    def _update_cache(
        self, memory: State | dict[str, Tensor], latents: Tensor, actions: Tensor, *sampled: Tensor
    ) -> None:
        """Take frames as the denoiser has them into its cache, in place; blocks and surprise go with sampled ones."""
        context = self._presentation.context(latents, actions, *sampled)
        with self._precision(latents.device):
            cache = self.denoiser.update_cache(memory, context)
        memory.update({name: value.float() if value.is_floating_point() else value for name, value in cache.items()})

    def _encode_history(self, state: State, vectors: Tensor, frames: Tensor) -> None:
        """Take real frames (b, t, c, h, w), and the vectors (b, t, a) that led to them, into the cache, in place.

        A latent stands for several frames, which end with the newest: all are encoded again when that is another one.
        """
        push_history(state, vectors, frames)
        for rows, pictures, done in whole_latents(state, self.stride):
            cache = self.denoiser.init_cache(frames.new_zeros(len(rows), *self.latent_shape))
            self._update_cache(cache, self._encode(pictures), self._per_latent(done))
            for name, value in cache.items():
                state[name] = state[name].index_copy(0, rows, value)

    def _encode(self, frames: Tensor, state: State | None = None, stream: int = _LATENT_STREAM) -> Tensor:
        """Frames (b, r f, c, h, w) in [0, 1] as the denoiser has them, (b, f, ...).

        Given the state they belong to, latents are sampled from their distribution, if the codec is one that has it so.
        """
        noise = None
        if self.codec.sampled and state is not None:
            noise = row_noise(state, self.latent_shape, frames.shape[1] // self.stride, stream, tempered=False)
        with self._precision(frames.device):
            return self.codec.encode(frames, noise).float()

    def _decode(self, latents: Tensor) -> Tensor:
        """Frames as the denoiser has them (b, f, ...) as a user sees them, (b, r f, c, h, w) in [0, 1]."""
        with self._precision(latents.device):
            frames = self.codec.decode(latents).float()
        return quantize_uint8(frames) if self.config.quantize_frames else frames

    def _per_latent(self, vectors: Tensor) -> Tensor:
        """Vectors of actions (b, r f, a), by frame of the denoiser: (b, f, r a)."""
        return vectors.unflatten(1, (-1, self.stride)).flatten(2) if self.stride > 1 else vectors

    def _precision(self, device: torch.device) -> AbstractContextManager[None]:
        """Let networks compute as their weights are stored."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self._rounded)
