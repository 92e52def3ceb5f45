"""Compare tokenizers on a recording: ``python -m dreamenv.benchmarks.tokenizers --data D --steps N``.

Each is trained for the same steps on the same windows, then shows held-out frames: PSNR and SSIM, the small objects
that are still found (`dreamenv.metrics.objects`), how many codes are in use, and what a frame takes: tokens, bits if
all tokens were equally likely, and bits at the frequencies they have. One that uses context is given the real frame
before, and is shown once more after eight frames of its own. Persistence is the frame before, which takes nothing.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from dreamenv.benchmarks.common import envelope, print_table, write_json
from dreamenv.codecs.codebook import perplexity
from dreamenv.codecs.context_tokens import ContextTokenizerConfig
from dreamenv.codecs.fsq_tokens import FSQTokenizerConfig
from dreamenv.codecs.multi_scale import MultiScaleTokenizerConfig
from dreamenv.codecs.tokenizer import FrameContext, Tokenizer, TokenizerConfig, tokenizer_stage
from dreamenv.codecs.vq import VQTokenizerConfig
from dreamenv.codecs.vqgan import VQGANTokenizerConfig
from dreamenv.data.dataset import EpisodeDataset
from dreamenv.data.store import FrameStore
from dreamenv.data.windows import WindowSampler, read_windows, windows_for_evaluation
from dreamenv.errors import ConfigError, FrameError, UnknownNameError
from dreamenv.metrics.images import psnr, ssim
from dreamenv.metrics.known_objects import detector_for
from dreamenv.metrics.objects import compare_objects
from dreamenv.nn.actions import ActionVector
from dreamenv.training.config import TrainConfig
from dreamenv.training.optimisation import learning_rate, make_optimizer, only_trainable
from dreamenv.world_model import Batch, DataStatistics, Stage

__all__ = ["TOKENIZERS", "Tokenizers", "main", "measure"]

TOKENIZERS: dict[str, Callable[[], TokenizerConfig]] = {
    "fsq": FSQTokenizerConfig,
    "vq": VQTokenizerConfig,
    "vqgan": VQGANTokenizerConfig,
    "multi_scale": MultiScaleTokenizerConfig,
    "context": ContextTokenizerConfig,
}
"""By name, with their default settings."""

_OWN = 8  # frames of its own after which a tokenizer that uses context is shown once more
_ROWS = 64  # coded at a time
_CRITIC = 0.5  # share of the steps after which a decoder listens to its critic


@dataclass(frozen=True, kw_only=True)
class Tokenizers:
    """Compare tokenizers.

    Attributes:
        data: folder of a recording.
        tokenizers: names of those to compare.
        steps: of training each.
        windows: held-out moments that are shown.
        holdout: share of the episodes that no tokenizer learns from.
        seed: of weights, windows and moments.
        out: JSON file to write.

    Raises:
        UnknownNameError: no such tokenizer.
        ConfigError: no steps or windows.
    """

    data: Path
    tokenizers: tuple[str, ...] = tuple(TOKENIZERS)
    steps: int = 2000
    windows: int = 512
    holdout: float = 0.1
    seed: int = 0
    out: Path = Path("tokenizers.json")

    def __post_init__(self) -> None:
        for name in self.tokenizers:
            if name not in TOKENIZERS:
                raise UnknownNameError("tokenizer", name, TOKENIZERS)
        if self.steps < 1 or self.windows < 1:
            raise ConfigError(f"steps and windows must be at least 1, not {self.steps} and {self.windows}.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    settings = tyro.cli(Tokenizers, args=arguments, description=__doc__)
    results = measure(settings)
    print_table(
        ("tokenizer", "PSNR (dB)", "SSIM", "objects found", "false ones a frame", "codes in use", "tokens a frame",
         "bits a frame", "bits at their frequencies", "minutes"),
        [_row(name, entry) for name, entry in results["tokenizers"].items()],
    )  # fmt: skip
    facts = {**vars(settings), "data": settings.data.name, "out": settings.out.name}
    print(f"wrote {write_json(settings.out, envelope('tokenizers', results, facts))}", file=sys.stderr)


def measure(settings: Tokenizers) -> dict[str, Any]:
    """Train and judge each; return ``tokenizers``: name -> figures, with "persistence" and "context, own" among them.

    Raises:
        DatasetError: the recording is empty, damaged or too small to hold anything out.
    """
    dataset = EpisodeDataset.open(settings.data)
    training, held_out = dataset.split(settings.holdout, settings.seed)
    store, judged = FrameStore(training), FrameStore(held_out)
    rows = windows_for_evaluation(judged, _OWN, settings.windows, settings.seed)
    batch = read_windows(judged, rows, _OWN)
    action = ActionVector(dataset.action_space)
    before, statistics = batch.frames[:, -2], store.statistics()
    found: dict[str, Any] = {"persistence": _judged(dataset, batch.frames[:, -1], before, settings.seed)}
    for name in settings.tokenizers:
        began = time.perf_counter()
        tokenizer = _trained(settings, TOKENIZERS[name](), store, statistics, action)
        minutes = (time.perf_counter() - began) / 60
        tokens, shown = _shown(tokenizer, batch, action, own=False)
        facts = {
            "minutes": minutes,
            "tokens": tokenizer.tokens_per_frame,
            "vocabulary": tokenizer.vocabulary,
            "bits": tokenizer.bits_per_frame,
            "perplexity": float(perplexity(tokens, tokenizer.vocabulary)),
            "used": len(tokens.unique()),
            "parameters": sum(one.numel() for one in tokenizer.parameters()),
        }
        found[name] = facts | _judged(dataset, batch.frames[:, -1], shown, settings.seed)
        if tokenizer.uses_context:
            _, shown = _shown(tokenizer, batch, action, own=True)
            found[f"{name}, own"] = facts | _judged(dataset, batch.frames[:, -1], shown, settings.seed)
        print(f"{name}: {minutes:.1f} minutes, {found[name]['psnr']:.2f} dB", file=sys.stderr, flush=True)
    return {
        "tokenizers": found,
        "environment": dataset.provenance.environment_id,
        "sha256": dataset.content_hash(),
        "episodes": {"training": len(training), "held_out": len(held_out)},
    }


def _trained(
    settings: Tokenizers,
    config: TokenizerConfig,
    store: FrameStore,
    statistics: DataStatistics,
    action: ActionVector,
) -> Tokenizer:
    """Train a tokenizer by itself, as a stage of a world's training would."""
    if isinstance(config, VQGANTokenizerConfig):
        config = dataclasses.replace(config, critic_start=round(_CRITIC * settings.steps))
    torch.manual_seed(settings.seed)
    height, width, channels = store.dataset.frame_shape
    tokenizer = config.build((channels, height, width), action.size)
    tokenizer.calibrate(statistics)
    stage = tokenizer_stage(tokenizer, action)
    run = TrainConfig(steps={stage.name: settings.steps}, seed=settings.seed)
    windows = WindowSampler(
        store,
        batch_size=stage.batch_size,
        sequence_length=stage.sequence_length,
        seed=settings.seed,
        crop_at_episode_ends=stage.crop_at_episode_ends,
    )
    optimizers = [make_optimizer(objective, stage, run) for objective in stage.objectives]
    for step in range(settings.steps):
        _step(tokenizer, stage, optimizers, windows.batch(step), learning_rate(stage, step, run), run)
    return tokenizer.eval().requires_grad_(False)


def _step(
    tokenizer: Tokenizer,
    stage: Stage,
    optimizers: Sequence[torch.optim.Optimizer],
    batch: Batch,
    rate: float,
    run: TrainConfig,
) -> None:
    for objective, optimizer in zip(stage.objectives, optimizers, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        only_trainable(tokenizer, objective)
        optimizer.zero_grad(set_to_none=True)
        loss, _ = objective.loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters, run.optimizer.gradient_clip or float("inf"))
        optimizer.step()


@torch.no_grad()
def _shown(tokenizer: Tokenizer, batch: Batch, action: ActionVector, *, own: bool) -> tuple[Tensor, Tensor]:
    """Return tokens (n, l) of the windows' last frames and what they show, after frames of its own if so asked."""
    vectors, steps = action(batch.actions), batch.actions.shape[1]
    tokens, shown = [], []
    for rows in torch.arange(len(batch.actions)).split(_ROWS):
        before = batch.first_frame[rows] if own else batch.frames[rows, -2]
        for i in range(0 if own else steps - 1, steps):
            context = FrameContext(before, vectors[rows, i])
            coded = tokenizer.encode(batch.frames[rows, i], context)
            before = tokenizer.decode(coded, context)
        tokens.append(coded)
        shown.append(before)
    return torch.cat(tokens), torch.cat(shown)


def _judged(dataset: EpisodeDataset, truth: Tensor, shown: Tensor, seed: int) -> dict[str, Any]:
    entry: dict[str, Any] = {"psnr": float(psnr(shown, truth).mean()), "ssim": float(ssim(shown, truth).mean())}
    # The mean of decibels counts a frame that did not change as endlessly good; that of squared errors does not.
    entry["psnr_of_mean_error"] = float(-10 * (shown - truth).square().mean().clamp_min(1e-10).log10())
    try:
        detector = detector_for(dataset.provenance.environment_id)
        compared = compare_objects(detector, truth, {"shown": shown}, seed=seed)
    except (UnknownNameError, FrameError):
        return entry
    return entry | {"objects": compared["objects"], **compared["shown"]}


def _row(name: str, entry: dict[str, Any]) -> tuple[Any, ...]:
    objects = entry.get("found")
    row = [name, f"{entry['psnr_of_mean_error']:.2f}", f"{entry['ssim']:.3f}"]
    row += ["-", "-"] if objects is None else [f"{objects['mean']:.0%}", f"{entry['false']['mean']:.2f}"]
    if "tokens" not in entry:
        return (*row, "-", "0", "0", "0", "-")
    spread = torch.tensor(entry["perplexity"]).log2().item() * entry["tokens"]
    in_use = f"{entry['perplexity']:.0f} of {entry['vocabulary']}"
    return (*row, in_use, entry["tokens"], f"{entry['bits']:.0f}", f"{spread:.0f}", f"{entry['minutes']:.1f}")


if __name__ == "__main__":
    main()
