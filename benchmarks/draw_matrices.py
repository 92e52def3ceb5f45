"""Draw the scheduling matrices of `dreamenv.diffusion.schedule` as one picture.

    python -m dreamenv.benchmarks.draw_matrices --out docs/images/matrices.png

The documentation shows it. It takes a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from dreamenv.diffusion.schedule import Chunkwise, FullSequence, NextFrame, Pyramid, Schedule, Trapezoid
from dreamenv.extras import require

__all__ = ["DrawMatrices", "draw", "main"]

_FRAMES, _STEPS = 8, 4


@dataclass(frozen=True, kw_only=True)
class DrawMatrices:
    """Where to draw.

    Attributes:
        out: image file to write.
    """

    out: Path = Path("docs/images/matrices.png")


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw from the command line."""
    settings = tyro.cli(DrawMatrices, args=arguments, description=__doc__)
    draw(settings.out)
    print(f"wrote {settings.out}")


def draw(out: Path) -> None:
    """Write the picture: a column per frame, a row per step, dark where noise is left.

    Raises:
        MissingDependencyError: there is no matplotlib.
    """
    require("matplotlib", extra="report")
    from matplotlib import pyplot as plt

    schedules: dict[str, Schedule] = {
        "next frame": NextFrame(frames=_FRAMES),
        "pyramid": Pyramid(frames=_FRAMES),
        "trapezoid": Trapezoid(frames=_FRAMES),
        "chunks of 2,\n2 in flight": Chunkwise(frames=_FRAMES, group=2, in_flight=2),
        "full sequence": FullSequence(frames=_FRAMES),
    }
    matrices = {name: schedule.matrix(_STEPS) for name, schedule in schedules.items()}
    tallest = max(len(matrix.left) for matrix in matrices.values())
    figure, axes = plt.subplots(1, len(matrices), figsize=(11, 7), sharey=True, layout="constrained")
    for axis, (name, matrix) in zip(axes, matrices.items(), strict=True):
        axis.imshow(matrix.left, cmap="Blues", vmin=0, vmax=_STEPS, aspect="equal")
        axis.set(title=f"{name}\n{matrix.evaluations} evaluations", xlabel="frame", ylim=(tallest - 0.5, -0.5))
        axis.set_xticks(range(_FRAMES))
        axis.set_frame_on(False)
        for row, levels in enumerate(matrix.left):
            for column, left in enumerate(levels):
                axis.text(column, row, left, ha="center", va="center", color="white" if left > 2 else "0.3", fontsize=7)
    axes[0].set_ylabel("step")
    figure.suptitle("Noise levels left before each step: 4 is pure noise, 0 a clean frame")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
