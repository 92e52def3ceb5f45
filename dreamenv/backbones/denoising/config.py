"""A denoising world's settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from dreamenv.backbones.denoising.codec import CodecConfig
from dreamenv.diffusion.forcing import (
    LevelMatrix,
    backwards,
    chunkwise,
    ends_first,
    full_sequence,
    next_frame,
    pyramid,
)
from dreamenv.diffusion.objective import Manner
from dreamenv.diffusion.processes import Flow, Karras, NoiseProcess, VariancePreserving
from dreamenv.diffusion.samplers import DDIM, Ancestral, DPMSolver, Euler, Heun, Sampler
from dreamenv.diffusion.shortcut import check_passes
from dreamenv.diffusion.targets import Target, TargetName
from dreamenv.errors import ConfigError
from dreamenv.public.parts import CodecPart, EventsPart, NetworkPart, is_part, read_part
from dreamenv.world_model import WorldModelSpec

if TYPE_CHECKING:
    from dreamenv.backbones.denoising.model import DenoisingWorld

__all__ = ["DenoisingConfig"]

_PLANS = {
    "next": next_frame, "pyramid": pyramid, "full": full_sequence, "ends first": ends_first, "backwards": backwards,
}  # fmt: skip
_SAMPLERS: dict[str, Callable[[], Sampler]] = {
    "euler": Euler, "heun": Heun, "dpm": DPMSolver, "ddim": DDIM, "ancestral": Ancestral,
    "learned": lambda: Ancestral(variance="learned"),
}  # fmt: skip
_CHOICES = {
    "network": ("unet", "dit", "cdit", "packed", "public"),
    "plan": (*_PLANS, "groups"),
    "noise": ("karras", "chain", "flow"),
    "sampler": tuple(_SAMPLERS),
    "actions": ("added", "by kind"),
    "spacing": ("even", "ends"),
    "events_see": ("frame", "latent"),
    "weighting": ("plain", "velocity"),
}
_LATER: dict[str, Any] = {"later": True}  # see `dreamenv.registry.config_to_json`


@dataclass(frozen=True, kw_only=True)
class DenoisingConfig:
    """Settings of a denoising world. Frames are in [-1, 1] inside it, latents have a spread of about 1.

    Attributes:
        network: what sees the past how. "unet": stacked as channels; "dit": by attention that is causal in time;
            "cdit": by attention across to it; "packed": by attention to a fixed number of tokens; "public": as
            ``public`` says.
        context: past frames that a frame looks at; for "packed" the sum of its packing counts instead.
        chunk: frames drawn together, 1 for "unet" and "cdit".
        plan: who is denoised when within a chunk: "next" frame after frame, "pyramid" each a pass behind the one
            before, "full" all together, "groups" so many at a time, "ends first" the last one and then the others, or
            "backwards" from the last one to the first.
        group: for "groups", frames that are denoised together and see each other both ways.
        in_flight: for "groups", how many groups are denoised at a time, evenly apart.
        noise: the process: "karras" (EDM), "chain" (variance-preserving) or "flow".
        schedule: of a chain: "linear", "cosine" or "sigmoid".
        shift: more noise, above 1, for a chain or a flow.
        sigma_min: least noise, for "karras".
        sigma_max: greatest noise, for "karras".
        target: what the network predicts, see `dreamenv.diffusion.targets.Target`.
        weighting: "plain" counts what the network predicts at every noise level alike; "velocity", for a network that
            predicts the frame, counts it as if it had predicted the velocity, so that it also learns what is small,
            which shows at low levels only (Li and He 2025).
        moving: share of the weight of a frame's error that goes to places that move rather than to all alike, in
            [0, 1); see `dreamenv.diffusion.objective.weight_of_moving`. Not with shortcuts.
        data_std: standard deviation of a frame's values; 1 for latents.
        sampler: "euler", "heun", "dpm", "ddim", "ancestral", or "learned" for the ancestral one with the variance that
            the network says; see `dreamenv.diffusion.samplers`.
        passes: of the sampler per frame.
        shortcut: steps of the finest size that the network is told, a power of two; 0 tells it none. A world with
            shortcuts draws in 1, 2, 4 ... up to so many passes.
        quantise: round each frame to 8 bits, as a user sees it, before it becomes context (DIAMOND); not for latents.
        stabilisation: noise level that context passes for in "dit", on the scale of the noise process.
        manner: of passing for it: "scaled" (Diffusion Forcing) or only "labelled" (Oasis).
        corruption: greatest standard deviation of noise that the context of other networks gets in training, so that
            they forgive what they drew a little wrong themselves; drawn anew for each window.
        hide_actions: share of the windows in training in which actions are hidden, for guidance.
        hide_past: share of the windows in training in which the past is hidden, for guidance.
        guide_actions: weight of the actions beyond what the network says without them; see
            `dreamenv.diffusion.guidance`. 1 is no guidance.
        guide_past: weight of the past beyond what the network says without it; 1 is no guidance.
        actions: "added" to the noise level's embedding, or put in "by kind" (GameFactory), for "dit".
        action_window: frames back whose actions are seen too, when put in by kind.
        furthest_jump: steps ahead that "cdit" learns to draw a frame, at least 1; a published network learned them.
        packing: for "packed", (frames, factor) from newest to oldest, see `dreamenv.nn.packed_dit.PackedDiT`.
        codec: settings of the codec whose latents are drawn, or a published one; None draws pixels.
        channels: of the U-Net's resolutions, finest first.
        blocks: of the U-Net, per resolution and direction.
        depth: blocks of a transformer.
        heads: of a transformer's attention.
        patch: pixels (or latents) per side that the U-Net gathers into channels, or a transformer into a token.
        condition: width of the embedding of noise level and actions, and of a transformer's tokens.
        events_see: what foretells reward and ending sees the "frame", or its "latent" as the codec has it, which is the
            same in a dream and of a real frame where the codec leaves something out; for codecs of a latent per frame.
        memory: width of the recurrent memory that foretells reward and ending.
        event_channels: of the convolutions that it sees frames through, finest stage first.
        termination_weight: of the ending's cross-entropy beside the reward's.
        dropout: share of that memory hidden while training.
        denoiser_steps: optimiser steps of the stage that learns frames.
        denoiser_batch: windows per step of it.
        denoiser_length: steps per window of it.
        denoiser_rate: peak learning rate of it.
        events_steps: optimiser steps of the stage that learns rewards and endings.
        events_batch: windows per step of it.
        events_length: steps per window of it.
        events_rate: peak learning rate of it.
        bfloat16: compute products in bfloat16 while training, where the hardware does so natively.
        public: a published network, see `dreamenv.public`.
        events: a published network of rewards and endings; None has one of our own.
        spacing: which steps of a chain the passes visit: "even", or "ends", which has the first and the last one.
        spread: standard deviation of the noise that a frame begins as; None takes the process's.
        offset: standard deviation of noise that is the same for all pixels of a channel, in training (DIAMOND).
        quantise_passes: cut the expected frame off to 8 bits in every pass (DIAMOND); not for latents.
        reencode: what was shown is encoded again to become context (NWM), rather than kept as it was drawn.
        as_drawn: pixels become context as they were drawn, also those beyond what can be shown (Diffusion Forcing); not
            with ``quantise``. Latents do anyway.

    Raises:
        ConfigError: a setting that cannot work, or a target that does not go with the noise.
    """

    network: Literal["unet", "dit", "cdit", "packed", "public"] = "unet"
    context: int = 4
    chunk: int = 1
    plan: Literal["next", "pyramid", "full", "groups", "ends first", "backwards"] = "next"
    group: int = 1
    in_flight: int = 1
    noise: Literal["karras", "chain", "flow"] = "karras"
    schedule: Literal["linear", "cosine", "sigmoid"] = "cosine"
    shift: float = 1.0
    sigma_min: float = 0.002
    sigma_max: float = 5.0
    target: TargetName = "edm"
    data_std: float = 0.5
    sampler: Literal["euler", "heun", "dpm", "ddim", "ancestral", "learned"] = "euler"
    passes: int = 3
    shortcut: int = 0
    quantise: bool = True
    stabilisation: float = 0.0
    manner: Manner = "scaled"
    corruption: float = 0.0
    hide_actions: float = 0.0
    hide_past: float = 0.0
    guide_actions: float = 1.0
    guide_past: float = 1.0
    actions: Literal["added", "by kind"] = "added"
    action_window: int = 0
    furthest_jump: int = 1
    packing: tuple[tuple[int, int], ...] = ((1, 1), (2, 2), (16, 4))
    codec: CodecConfig | CodecPart | None = None
    channels: tuple[int, ...] = (64, 64, 64, 64)
    blocks: int = 2
    depth: int = 4
    heads: int = 4
    patch: int = 1
    condition: int = 256
    memory: int = 256
    event_channels: tuple[int, ...] = (32, 48, 64)
    termination_weight: float = 5.0
    dropout: float = 0.2
    denoiser_steps: int = 2000
    denoiser_batch: int = 8
    denoiser_length: int = 8
    denoiser_rate: float = 3e-4
    events_steps: int = 600
    events_batch: int = 8
    events_length: int = 32
    events_rate: float = 3e-4
    bfloat16: bool = True
    public: NetworkPart | None = field(default=None, metadata=_LATER)
    events: EventsPart | None = field(default=None, metadata=_LATER)
    spacing: Literal["even", "ends"] = field(default="even", metadata=_LATER)
    spread: float | None = field(default=None, metadata=_LATER)
    offset: float = field(default=0.0, metadata=_LATER)
    quantise_passes: bool = field(default=False, metadata=_LATER)
    reencode: bool = field(default=False, metadata=_LATER)
    as_drawn: bool = field(default=False, metadata=_LATER)
    events_see: Literal["frame", "latent"] = field(default="frame", metadata=_LATER)
    weighting: Literal["plain", "velocity"] = field(default="plain", metadata=_LATER)
    moving: float = field(default=0.0, metadata=_LATER)

    def __post_init__(self) -> None:
        # As JSON has them.
        object.__setattr__(self, "packing", tuple((int(frames), int(factor)) for frames, factor in self.packing))
        for name in ("codec", "public", "events"):
            values = getattr(self, name)
            if isinstance(values, Mapping):
                ours = name == "codec" and not is_part(values)
                object.__setattr__(self, name, CodecConfig.from_json(values) if ours else read_part(values))
        sizes = ("context", "chunk", "group", "in_flight", "furthest_jump", "blocks", "depth", "heads", "patch")
        for name in (*sizes, "condition", "memory", "denoiser_steps", "events_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}.")
        if (self.network == "public") != (self.public is not None):
            raise ConfigError(
                f"network='public' and a public network go together, not {self.network!r} and {self.public}."
            )
        if self.offset < 0 or (self.offset and self.target != "edm"):
            raise ConfigError(
                f"offset must be at least 0, and 0 unless the target is 'edm', not {self.offset} with {self.target!r}."
            )
        if self.as_drawn and (self.quantise or self.codec):
            raise ConfigError(
                "as_drawn keeps pixels as they were drawn: set quantise=False, and leave as_drawn out where a codec's "
                "latents are drawn, which are kept so unless reencode is set."
            )
        if self.network in ("unet", "cdit", "public") and self.chunk > 1:
            raise ConfigError(
                f"the network {self.network!r} draws one frame at a time, not {self.chunk}; set chunk=1, or network to "
                "'dit' or 'packed'."
            )
        if self.denoiser_length % self.frames_at_once:
            raise ConfigError(
                f"a chunk of {self.frames_at_once} does not divide the {self.denoiser_length} steps that "
                "denoiser_length gives."
            )
        stride = self.codec.stride if self.codec else 1
        if self.events_see == "latent" and (self.codec is None or stride > 1 or self.events is not None):
            raise ConfigError(
                "events_see='latent' needs a codec with a latent for every frame, and no published network of events; "
                "leave it at 'frame'."
            )
        if self.remembered * stride > self.denoiser_length:
            raise ConfigError(
                f"a context of {self.remembered * stride} frames is longer than the windows of {self.denoiser_length} "
                "that it is trained on; make denoiser_length larger, or context (packing) shorter."
            )
        if self.condition % 2:
            raise ConfigError(f"condition must be even, not {self.condition}.")
        for name in ("dropout", "hide_actions", "hide_past", "moving"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be in [0, 1), not {getattr(self, name)}.")
        for name in ("corruption", "action_window"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0, not {getattr(self, name)}.")
        # A causal transformer learns to do without a past from frames whose past is noise.
        for name in ("actions",) if self.network == "dit" else ("actions", "past"):
            if getattr(self, f"guide_{name}") != 1 and getattr(self, f"hide_{name}") == 0:
                raise ConfigError(
                    f"guide_{name} is {getattr(self, f'guide_{name}')}, but the network never learned to do without "
                    f"them: train with hide_{name} above 0, or leave guide_{name} at 1."
                )
        self._check_kinds()
        if self.shortcut:
            check_passes(self.passes, self.shortcut)
        self.make_target()
        self.make_plan().levels(self.process)

    def _check_kinds(self) -> None:
        """Refuse what only another network has."""
        if self.actions == "by kind" and self.network != "dit":
            raise ConfigError(f"actions are put in 'by kind' with network='dit' only, not with {self.network!r}.")
        jumps = self.network == "cdit" or getattr(self.public, "jumps", False)
        if self.furthest_jump > 1 and not jumps:
            raise ConfigError(f"jumps of {self.furthest_jump} steps need network='cdit', not {self.network!r}.")
        # A published network learned them elsewhere; it learns on from those that a window holds.
        if self.furthest_jump > self.denoiser_length and self.public is None:
            raise ConfigError(
                f"jumps of {self.furthest_jump} steps cannot be learned in windows of {self.denoiser_length}; "
                "make denoiser_length larger."
            )
        if self.network == "packed" and not self.packing:
            raise ConfigError("packing must name at least one (frames, factor).")
        if self.shortcut and (self.noise, self.target, self.shift) != ("flow", "frame", 1.0):
            raise ConfigError(
                f"shortcuts need noise='flow', target='frame' and shift=1, not {self.noise!r}, {self.target!r} and "
                f"{self.shift}."
            )
        if self.weighting == "velocity" and (self.target != "frame" or self.shortcut or self.noise == "karras"):
            raise ConfigError(
                "weighting='velocity' is of a chain's or a flow's frames, without shortcuts, not of "
                f"{self.target!r} with {self.noise!r}; leave it at 'plain'."
            )
        if self.shortcut and self.moving:
            raise ConfigError(f"shortcuts count the error of all places alike: moving=0, not {self.moving}.")
        if self.shortcut and self.network == "unet":
            raise ConfigError("shortcuts need a transformer, which is told the size of a step: network='dit'.")
        if self.shortcut and self.sampler not in ("euler", "ddim"):
            raise ConfigError(f"shortcuts are steps of the first order: sampler='euler', not {self.sampler!r}.")

    @property
    def frames_at_once(self) -> int:
        """Frames of the environment that are drawn together: pictures per latent times latents."""
        return self.chunk * (self.codec.stride if self.codec else 1)

    @property
    def group_size(self) -> int:
        """Frames of a chunk that see each other both ways in a causal transformer."""
        return {"full": self.chunk, "groups": self.group}.get(self.plan, 1)

    @property
    def remembered(self) -> int:
        """Frames (or latents) that a frame looks back on."""
        return sum(frames for frames, _ in self.packing) if self.network == "packed" else self.context

    @property
    def process(self) -> NoiseProcess:
        """The noise process."""
        if self.noise == "karras":
            return Karras(sigma_min=self.sigma_min, sigma_max=self.sigma_max, mean=-0.4)  # mean: as DIAMOND trains
        if self.noise == "chain":
            return VariancePreserving(schedule=self.schedule, shift=self.shift, ends=self.spacing == "ends")
        return Flow(shift=self.shift, spread=None if self.shortcut else 1.0)

    def make_target(self) -> Target:
        """Return what the network predicts."""
        return Target(name=self.target, process=self.process, data_std=self.data_std, offset=self.offset)

    def make_sampler(self) -> Sampler:
        """Return the sampler."""
        return _SAMPLERS[self.sampler]()

    def make_plan(self) -> LevelMatrix:
        """Return who is denoised when within a chunk.

        Raises:
            ConfigError: groups that do not divide the chunk, or groups in flight that do not divide the passes.
        """
        if self.plan == "groups":
            return chunkwise(self.chunk, self.passes, self.group, self.in_flight)
        return _PLANS[self.plan](self.chunk, self.passes)

    def build(self, spec: WorldModelSpec) -> DenoisingWorld:
        """Make the untrained model."""
        from dreamenv.backbones.denoising.model import DenoisingWorld  # here, because the model imports its settings

        return DenoisingWorld(self, spec)
