"""A denoising world's settings, and its presets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dreamenv.diffusion.forcing import LevelMatrix, full_sequence, next_frame, pyramid
from dreamenv.diffusion.objective import Manner
from dreamenv.diffusion.processes import Flow, Karras, NoiseProcess, VariancePreserving
from dreamenv.diffusion.samplers import DDIM, DPMSolver, Euler, Heun, Sampler
from dreamenv.diffusion.targets import Target, TargetName
from dreamenv.errors import ConfigError
from dreamenv.world_model import WorldModelSpec

if TYPE_CHECKING:
    from dreamenv.backbones.denoising.model import DenoisingWorld

__all__ = ["DenoisingConfig", "chunkwise", "diamond", "diffusion_forcing", "small", "tiny"]

_PLANS = {"next": next_frame, "pyramid": pyramid, "full": full_sequence}
_SAMPLERS: dict[str, Callable[[], Sampler]] = {"euler": Euler, "heun": Heun, "dpm": DPMSolver, "ddim": DDIM}


@dataclass(frozen=True, kw_only=True)
class DenoisingConfig:
    """Settings of a denoising world. Frames are in [-1, 1] inside it.

    Attributes:
        network: "unet", past frames stacked as channels, or "dit", a transformer that is causal in time.
        context: past frames that a frame looks at.
        chunk: frames drawn together, 1 for a U-Net.
        plan: who is denoised when within a chunk: "next" frame after frame, "pyramid" each a pass behind the one
            before, or "full" all together.
        noise: the process: "karras" (EDM), "chain" (variance-preserving) or "flow".
        schedule: of a chain: "linear", "cosine" or "sigmoid".
        shift: more noise, above 1, for a chain or a flow.
        sigma_min, sigma_max: least and greatest noise, for "karras".
        target: what the network predicts, see `dreamenv.diffusion.targets.Target`.
        data_std: standard deviation of a frame's values, for the target "edm".
        sampler: "euler", "heun", "dpm" or "ddim", see `dreamenv.diffusion.samplers`.
        passes: of the sampler per frame.
        quantise: round each frame to 8 bits, as a user sees it, before it becomes context (DIAMOND).
        stabilisation: noise level that context passes for in a transformer, on the scale of the noise process.
        manner: of passing for it: "scaled" (Diffusion Forcing) or only "labelled" (Oasis).
        channels: of the U-Net's resolutions, finest first.
        blocks: of the U-Net, per resolution and direction.
        depth, heads: of the transformer.
        patch: pixels per side that the U-Net gathers into channels, or the transformer into a token.
        condition: width of the embedding of noise level and actions, and of the transformer's tokens.
        memory: width of the recurrent memory that foretells reward and ending.
        event_channels: of the convolutions that it sees frames through, finest stage first.
        termination_weight: of the ending's cross-entropy beside the reward's.
        dropout: share of that memory hidden while training.
        denoiser_steps, denoiser_batch, denoiser_length, denoiser_rate: optimiser steps, windows per step, steps per
            window and peak learning rate of the stage that learns frames.
        events_steps, events_batch, events_length, events_rate: likewise of the stage for rewards and endings.
        bfloat16: compute products in bfloat16 while training, where the hardware does so natively.

    Raises:
        ConfigError: a setting that cannot work, or a target that does not go with the noise.
    """

    network: Literal["unet", "dit"] = "unet"
    context: int = 4
    chunk: int = 1
    plan: Literal["next", "pyramid", "full"] = "next"
    noise: Literal["karras", "chain", "flow"] = "karras"
    schedule: Literal["linear", "cosine", "sigmoid"] = "cosine"
    shift: float = 1.0
    sigma_min: float = 0.002
    sigma_max: float = 5.0
    target: TargetName = "edm"
    data_std: float = 0.5
    sampler: Literal["euler", "heun", "dpm", "ddim"] = "euler"
    passes: int = 3
    quantise: bool = True
    stabilisation: float = 0.0
    manner: Manner = "scaled"
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

    def __post_init__(self) -> None:
        sizes = ("context", "chunk", "blocks", "depth", "heads", "patch", "condition", "memory")
        for name in (*sizes, "denoiser_steps", "events_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.network not in ("unet", "dit"):
            raise ConfigError(f"network must be 'unet' or 'dit', not {self.network!r}.")
        if self.plan not in _PLANS:
            raise ConfigError(f"plan must be one of {', '.join(_PLANS)}, not {self.plan!r}.")
        if self.network == "unet" and self.chunk > 1:
            raise ConfigError(f"a U-Net draws one frame at a time, not {self.chunk}; set chunk=1 or network='dit'.")
        if self.denoiser_length % self.chunk:
            raise ConfigError(
                f"a chunk of {self.chunk} does not divide the {self.denoiser_length} steps that denoiser_length gives."
            )
        if self.condition % 2:
            raise ConfigError(f"condition must be even, not {self.condition}.")
        if self.sampler not in _SAMPLERS:
            raise ConfigError(f"sampler must be one of {', '.join(_SAMPLERS)}, not {self.sampler!r}.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be in [0, 1), not {self.dropout}.")
        self.make_target()
        self.make_plan().levels(self.process)

    @property
    def process(self) -> NoiseProcess:
        """The noise process."""
        if self.noise == "karras":
            return Karras(sigma_min=self.sigma_min, sigma_max=self.sigma_max, mean=-0.4)  # mean: as DIAMOND trains
        if self.noise == "chain":
            return VariancePreserving(schedule=self.schedule, shift=self.shift)
        if self.noise == "flow":
            return Flow(shift=self.shift, spread=1.0)
        raise ConfigError(f"noise must be 'karras', 'chain' or 'flow', not {self.noise!r}.")

    def make_target(self) -> Target:
        """Return what the network predicts."""
        return Target(name=self.target, process=self.process, data_std=self.data_std)

    def make_sampler(self) -> Sampler:
        """Return the sampler."""
        return _SAMPLERS[self.sampler]()

    def make_plan(self) -> LevelMatrix:
        """Return who is denoised when within a chunk."""
        return _PLANS[self.plan](self.chunk, self.passes)

    def build(self, spec: WorldModelSpec) -> DenoisingWorld:
        """Make the untrained model."""
        from dreamenv.backbones.denoising.model import DenoisingWorld  # here, because the model imports its settings

        return DenoisingWorld(self, spec)


def tiny() -> DenoisingConfig:
    """For tests: trains in seconds."""
    return DenoisingConfig(
        context=2, passes=2, channels=(16, 24), blocks=1, patch=2, condition=32, memory=32, event_channels=(8, 12),
        denoiser_steps=200, events_steps=100, denoiser_length=6, events_length=12, denoiser_rate=1e-3, events_rate=1e-3,
    )  # fmt: skip


def small() -> DenoisingConfig:
    """For two CPU cores: DIAMOND's recipe with a U-Net that looks at patches of 2 x 2 pixels."""
    return DenoisingConfig(channels=(48, 64, 96), blocks=1, patch=2, condition=128)


def diamond() -> DenoisingConfig:
    """The size of DIAMOND for Atari (Alonso et al. 2024): 4 frames of context, EDM, 3 Euler steps; for a GPU."""
    return DenoisingConfig(
        blocks=2, memory=512, denoiser_steps=400_000, denoiser_batch=32, denoiser_length=8, denoiser_rate=1e-4,
        events_steps=400_000, events_batch=32, events_length=20, events_rate=1e-4,
    )  # fmt: skip


def diffusion_forcing() -> DenoisingConfig:
    """For two CPU cores: Diffusion Forcing (Chen et al. 2024), frame after frame, with a causal transformer."""
    return DenoisingConfig(
        network="dit", context=16, noise="chain", schedule="sigmoid", target="velocity", sampler="ddim", passes=8,
        stabilisation=15, condition=256, depth=3, heads=4, patch=8, denoiser_length=16,
    )  # fmt: skip


def chunkwise() -> DenoisingConfig:
    """For two CPU cores: four frames at a time out of the noise of a shifted flow, as MAGI-1 draws chunks."""
    return DenoisingConfig(
        network="dit", context=16, chunk=4, plan="full", noise="flow", shift=3.0, target="flow", sampler="euler",
        passes=8, stabilisation=0.02, condition=256, depth=3, heads=4, patch=8, denoiser_length=16,
    )  # fmt: skip
