"""A world that draws its frames out of noise, one or a few at a time, given those before and the actions.

Which network draws, and how it remembers, is one choice (`networks`): frames stacked as channels (`stacked`), causal
attention (`causal`), attention across to the past (`crossing`), or a packed past (`packed`). Who is denoised when
within a chunk is another (`dreamenv.diffusion.forcing`), pixels or a codec's latents (`codec`) a third. How the network
learns is in `learning`. Reward and ending come from a memory of their own (`events`). Noise is drawn from the row's own
stream, and scaled by its temperature.

State: ``frame`` (b, c, h, w) in [0, 1], the present one, and where events see it so its ``latent`` (b, C, H, W);
``memory`` (b, m) of the events; the network's own entries; and those of `history`, where a latent stands for several
frames.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from dreamenv.backbones.denoising.causal import CausalFrames
from dreamenv.backbones.denoising.codec import Codec
from dreamenv.backbones.denoising.config import DenoisingConfig
from dreamenv.backbones.denoising.crossing import CrossFrames
from dreamenv.backbones.denoising.events import Events
from dreamenv.backbones.denoising.history import begin_history, record, recorded
from dreamenv.backbones.denoising.learning import drawing_error
from dreamenv.backbones.denoising.networks import Asked, FrameNetwork
from dreamenv.backbones.denoising.packed import PackedFrames
from dreamenv.backbones.denoising.stacked import StackedFrames
from dreamenv.diffusion.forcing import denoise_all
from dreamenv.diffusion.guidance import guide
from dreamenv.diffusion.targets import Prediction, cut_off, per_frame
from dreamenv.errors import ActionError
from dreamenv.nn.actions import ActionVector
from dreamenv.nn.precision import store_in_bfloat16
from dreamenv.randomness import normal
from dreamenv.world_model import (
    Batch,
    DataStatistics,
    Imagined,
    Objective,
    Stage,
    State,
    WorldModel,
    WorldModelSpec,
    check_actions,
    check_first_frame,
    check_frames,
    check_state,
    new_state,
)

__all__ = ["DenoisingWorld"]

_NOISE_STREAM = 0  # the stream of the noise that a frame begins as; passes that draw more use those after it
_LATENT_STREAM = 1 << 16  # of latents that are drawn from their distribution; the next one is the first frame's


class DenoisingWorld(WorldModel):
    """The model. Parameters only; memory travels in the state.

    Letters beyond the contract's: ``f`` frames as the network draws them, which are latents of ``stride`` frames each
    where there is a codec, and frames themselves where there is none.
    """

    action: Any
    events: Any

    def __init__(self, config: DenoisingConfig, spec: WorldModelSpec) -> None:
        super().__init__()
        self.config, self.stride = config, config.codec.stride if config.codec else 1
        self.spec = dataclasses.replace(
            spec, context_frames=config.remembered * self.stride, chunk=config.frames_at_once
        )
        self._observed = dataclasses.replace(self.spec, chunk=1)  # what happened need not come in chunks
        self.process, self.target, self.sampler = config.process, config.make_target(), config.make_sampler()
        self.plan = config.make_plan()
        noisiest = float(self.process.at(self.process.spacing(config.passes)[0])[1])
        self._spread = noisiest if config.spread is None else config.spread  # of the noise that frames begin as
        self.action = (config.public.vectors if config.public else ActionVector)(spec.action_space)
        self.codec = Codec(config.codec, spec.frame_shape) if config.codec else None
        self.drawn_shape = self.codec.latent_shape if self.codec else spec.frame_shape
        self.network = self._network()
        events = config.events.events if config.events else Events
        self._sees_latents = config.events_see == "latent"
        self.events = events(config, self.drawn_shape if self._sees_latents else spec.frame_shape, self.action.size)
        self._kept = ("frame", *(("latent",) if self._sees_latents else ()), *self.events.entries)
        self.embedding_size = self.events.embedding_size
        self.spec = dataclasses.replace(self.spec, predicts_rewards=any(True for _ in self.events.parameters()))
        self._rounded = False

    def _network(self) -> FrameNetwork:
        config, size = self.config, self.stride * self.action.size
        if config.public is not None:
            return config.public.network(config, self.drawn_shape, self.action.size)
        if config.network == "dit":
            return CausalFrames(config, self.drawn_shape, self.action.chosen, self.stride)
        if config.network == "cdit":
            return CrossFrames(config, self.drawn_shape, size)
        if config.network == "packed":
            return PackedFrames(config, self.drawn_shape, size)
        return StackedFrames(config, self.drawn_shape, size)

    # The contract

    def start(self, first_frame: Tensor, seed: Tensor) -> State:
        """Remember the first frame alone."""
        check_first_frame(self.spec, first_frame, seed)
        nothing = torch.zeros(first_frame.shape[0], 1, self.action.size, device=first_frame.device)
        b, device = first_frame.shape[0], first_frame.device
        empty = {name: torch.zeros(b, width, device=device) for name, width in self.events.entries.items()}
        state = new_state(seed, {"frame": first_frame, **empty})
        state.update(self.network.begin(first_frame.new_zeros(len(first_frame), *self.drawn_shape)))
        if self.stride > 1:
            state.update(begin_history(first_frame, self.config.remembered * self.stride, self.action.size))
            self._see_anew(state, nothing, first_frame[:, None])
            return state
        taken = self._taken(first_frame[:, None], state, _LATENT_STREAM + 1)
        if self._sees_latents:
            state["latent"] = taken[:, 0]
        self._remember(state, taken, nothing)
        return state

    def observe(self, state: State, actions: Tensor, frames: Tensor) -> State:
        """Remember what happened."""
        check_actions(self._observed, actions)
        check_frames(self.spec, actions, frames)
        check_state(state, actions, self._kept)
        state, vectors = state.copy(), self.action(actions)
        if self.stride > 1:
            self._foretell(state, vectors, frames)
            self._see_anew(state, vectors, frames)
        else:
            taken = self._taken(frames, state)
            self._foretell(state, vectors, frames, taken)
            self._remember(state, taken, vectors)
        state["rng_counter"] = state["rng_counter"] + frames.shape[1]
        return state

    def imagine(self, state: State, actions: Tensor, *, decode: bool = True) -> tuple[Imagined, State]:
        """Draw one chunk after the other. Frames are drawn even if not asked for: the next ones are made from them."""
        check_actions(self.spec, actions)
        check_state(state, actions, self._kept)
        state = state.copy()
        frames, told = [], []
        for vectors in self.action(actions).split(self.spec.chunk, dim=1):
            grouped = self._grouped(vectors)
            drawn = self._draw(state, grouped)
            seen = self._shown(drawn)
            anew = self.config.reencode if self.codec else not self.config.as_drawn  # else kept as it was drawn
            kept = self._taken(seen, state) if anew else drawn
            told.append(self._foretell(state, vectors, seen, kept))
            self._remember(state, kept, grouped, self._groups(kept))
            if self.stride > 1:
                record(state, vectors, seen)
            state["rng_counter"] = state["rng_counter"] + seen.shape[1]
            frames.append(seen)
        rewards, endings = (torch.cat(values, dim=1) for values in zip(*told, strict=True))
        return Imagined(torch.cat(frames, dim=1) if decode else None, rewards, endings), state

    @property
    def max_time_shift(self) -> int:
        """The most steps ahead that were learned."""
        return self.config.furthest_jump

    def predict_ahead(self, state: State, actions: Tensor) -> Tensor:
        """Draw the frame that actions (b, k, *a) lead to at once, none of those between: (b, c, h, w) in [0, 1].

        The network hears what was done on average, so orders of actions that end elsewhere are not told apart. The
        state is not changed.

        Raises:
            ActionError: more steps than ``config.furthest_jump`` were learned.
        """
        check_actions(self._observed, actions)
        check_state(state, actions, self._kept)
        gap = actions.shape[1]
        if gap > self.config.furthest_jump:
            raise ActionError(
                f"this world learned to jump {self.config.furthest_jump} steps ahead at most, not {gap}; imagine the "
                "steps between, or train with furthest_jump larger."
            )
        vector = self.action(actions).mean(1, keepdim=True)
        return self._shown(self._draw(state, vector, gap))[:, 0]

    def embed(self, state: State) -> Tensor:
        """What the network of rewards and endings knows, and what it sees in the present frame."""
        known: Tensor = self.events.embed(state)
        return known

    def store_in_bfloat16(self) -> None:
        """Round the weights of products, in place; frames, latents and the events' memory stay float32."""
        store_in_bfloat16(self)
        self._rounded = True

    def compile_networks(self) -> None:
        """Have `torch.compile` make what is called in every pass, when it is first called."""
        self.network.predict = torch.compile(self.network.predict)  # type: ignore[method-assign]

    def calibrate(self, statistics: DataStatistics) -> None:
        """Take the range of rewards and the rate of endings from the data."""
        self.events.calibrate(statistics)

    def stages(self) -> Sequence[Stage]:
        """The codec if there is one; frames; rewards and endings: networks that do not need each other's gradients."""
        config, stages = self.config, []
        codec = self.codec
        if codec is not None and config.codec is not None:
            stages.append(
                Stage(
                    name="codec",
                    objectives=[Objective("codec", list(codec.parameters()), self.codec_loss)],
                    steps=config.codec.steps,
                    batch_size=config.codec.batch,
                    sequence_length=self.stride,
                    learning_rate=config.codec.rate,
                )
            )
        stages.append(
            Stage(
                name="denoiser",
                objectives=[Objective("denoiser", list(self.network.parameters()), self.denoising_loss)],
                steps=config.denoiser_steps,
                batch_size=config.denoiser_batch,
                sequence_length=config.denoiser_length,
                learning_rate=config.denoiser_rate,
                precompute=self.latents if codec and self.stride == 1 else None,
            )
        )
        foretelling = list(self.events.parameters())
        if foretelling:  # some published worlds foretell frames alone
            stages.append(
                Stage(
                    name="events",
                    objectives=[Objective("events", foretelling, self.events_loss)],
                    steps=config.events_steps,
                    batch_size=config.events_batch,
                    sequence_length=config.events_length,
                    learning_rate=config.events_rate,
                    precompute=self.latents if self._sees_latents else None,
                    # Its memory is empty at the start of a window: it must not predict termination by counting steps.
                    crop_at_episode_ends=True,
                )
            )
        return stages

    # What is learned

    def latents(self, frames: Tensor) -> Tensor:
        """Frames (n, c, h, w) in [0, 1] to the codec's latents (n, C, H, W), which later stages learn from."""
        assert self.codec is not None
        return self.codec.encode(frames[:, None])[:, 0]

    def codec_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Frames through the codec, which takes the measure of its latents on the way."""
        assert self.codec is not None
        return self.codec.loss(batch.frames, batch.generator)

    def denoising_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Every frame of the window after the first out of noise, given those before it in the window."""
        frames, actions = self._lesson(batch)
        error, asked = drawing_error(
            self.network, self.config, frames, actions, batch.generator, training=self.training
        )
        kept = (batch.weight * ~batch.terminated).unflatten(1, (-1, self.stride)).amin(2)  # terminal: may be anything
        kept = kept * asked[:, 1:]
        loss = (error[:, 1:] * kept).sum() / kept.sum().clamp_min(1e-8)
        return loss, {"denoising": loss.detach()}

    def events_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Rewards and endings."""
        loss: tuple[Tensor, dict[str, Tensor]] = self.events.loss(self.action(batch.actions), batch)
        return loss

    def _lesson(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return frames (b, 1 + f, c, h, w) as the network draws them, and the vectors (b, 1 + f, a) that led there."""
        vectors = self._grouped(self.action(batch.actions))
        actions = torch.cat((torch.zeros_like(vectors[:, :1]), vectors), dim=1)
        if batch.features is not None:
            return batch.features.float(), actions
        first = batch.first_frame[:, None].expand(-1, self.stride, -1, -1, -1)
        with torch.no_grad():
            return self._taken(torch.cat((first, batch.frames), dim=1)), actions

    # Pieces

    def _draw(self, state: State, actions: Tensor, gap: int = 1) -> Tensor:
        """Draw the frames (b, f, c, h, w), as the network has them, that actions (b, f, a) lead to."""
        b, f = actions.shape[:2]
        config, device = self.config, actions.device
        step = torch.full((b, f), 1 / config.passes, device=device) if config.shortcut else None
        ahead = torch.full((b, f), float(gap), device=device) if config.furthest_jump > 1 else None
        empty = self.network.begin(actions.new_zeros(b, *self.drawn_shape)) if config.guide_past != 1 else {}
        nothing = torch.zeros_like(actions)
        groups = self._groups(actions)

        def evaluate(past: Mapping[str, Tensor], noisy: Tensor, level: Tensor, acts: Tensor) -> Tensor:
            with self._rounding(device):
                return self.network.predict(past, Asked(noisy, level, acts, step, ahead, groups=groups)).float()

        def denoise(noisy: Tensor, level: Tensor) -> Prediction:
            output = evaluate(state, noisy, level, actions)
            variance = None
            if output.shape[2] > noisy.shape[2]:  # the network says how sure it is, too
                output, variance = output.chunk(2, dim=2)
                variance = (variance + 1) / 2
            if config.guide_actions != 1 or config.guide_past != 1:
                past = evaluate(state, noisy, level, nothing)
                more = {"actions": config.guide_actions}
                if config.guide_past == 1:
                    output = guide(past, {"actions": output}, more)
                else:
                    without = evaluate(empty, noisy, level, nothing)
                    # What actions add is what the network says beyond the past alone.
                    given = {"past": past, "actions": without + output - past}
                    output = guide(without, given, more | {"past": config.guide_past})
            found = self.target.read(output, noisy, level, variance)
            return cut_off(found, noisy, level, self.process) if config.quantise_passes else found

        def fresh(stream: int) -> Tensor:
            drawn = [
                normal(state["rng_key"], state["rng_counter"] + i, self.drawn_shape, stream=stream) for i in range(f)
            ]
            return torch.stack(drawn, dim=1) * per_frame(state["temperature"], actions)[..., None, None]

        return denoise_all(
            self.plan, self.process, self.sampler, denoise, self._spread * fresh(_NOISE_STREAM),
            draw=lambda number: fresh(_NOISE_STREAM + 1 + number),
        )  # fmt: skip

    def _foretell(
        self, state: State, actions: Tensor, frames: Tensor, taken: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Take actions (b, t, a) and the frames (b, t, c, h, w) they led to into the events' memory, in place.

        Args:
            state: whose memory it is.
            actions: vectors.
            frames: as a user sees them.
            taken: as the network has them, if that is what events see.

        Returns:
            Rewards and probabilities of an ending, (b, t) each.
        """
        seen = frames
        if self._sees_latents:
            assert taken is not None
            seen = taken
        told: tuple[Tensor, Tensor] = self.events.follow(state, actions, seen)
        if self._sees_latents:
            state["latent"] = seen[:, -1]
        state["frame"] = frames[:, -1]
        return told

    def _rounding(self, device: torch.device) -> AbstractContextManager[None]:
        """Let the network compute as its weights are stored."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self._rounded)

    def _remember(
        self, memory: State | dict[str, Tensor], frames: Tensor, actions: Tensor, groups: Tensor | None = None
    ) -> None:
        """Take frames as the network has them into its memory, in place."""
        with self._rounding(frames.device):
            kept = self.network.remember(memory, frames, actions, groups)
        memory.update({name: value.float() if value.is_floating_point() else value for name, value in kept.items()})

    def _groups(self, drawn: Tensor) -> Tensor:
        """Return the groups (f,) in which frames (b, f, ...) are drawn."""
        return torch.arange(drawn.shape[1], device=drawn.device) // self.config.group_size

    def _see_anew(self, state: State, vectors: Tensor, frames: Tensor) -> None:
        """Take real frames (b, t, c, h, w), and the vectors (b, t, a) that led to them, into the memory, in place.

        A latent stands for several frames, which end with the newest: all are made anew when that is another one.
        """
        record(state, vectors, frames)
        for rows, pictures, done in recorded(state, self.stride):
            memory = self.network.begin(frames.new_zeros(len(rows), *self.drawn_shape))
            self._remember(memory, self._taken(pictures), self._grouped(done))
            for name, value in memory.items():
                state[name] = state[name].index_copy(0, rows, value)

    def _taken(self, frames: Tensor, state: State | None = None, stream: int = _LATENT_STREAM) -> Tensor:
        """Frames (b, r f, c, h, w) in [0, 1] as the network has them, (b, f, ...).

        Given the state they belong to, latents are drawn from their distribution, if the codec is one that has it so.
        """
        if self.codec is None:
            return 2 * frames - 1
        noise = None
        if self.codec.sampled and state is not None:
            noise = torch.stack([
                normal(state["rng_key"], state["rng_counter"] + i, self.drawn_shape, stream=stream)
                for i in range(frames.shape[1] // self.stride)
            ], dim=1)  # fmt: skip
        with self._rounding(frames.device):
            return self.codec.encode(frames, noise).float()

    def _shown(self, drawn: Tensor) -> Tensor:
        """What the network drew as a user sees it."""
        if self.codec is None:
            frames = ((drawn + 1) / 2).clamp(0, 1)
        else:
            with self._rounding(drawn.device):
                frames = self.codec.decode(drawn).float()
        return frames.mul(255).round().div(255) if self.config.quantise else frames

    def _grouped(self, vectors: Tensor) -> Tensor:
        """Action vectors (b, r f, a), by frame of the network: (b, f, r a)."""
        return vectors.unflatten(1, (-1, self.stride)).flatten(2) if self.stride > 1 else vectors
