"""Run in one process or several: the Fabric of a run, and the module that routes any loss through its strategy."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import nn

from dreamenv.devices import find_device
from dreamenv.errors import ConfigError
from dreamenv.training.config import TrainConfig

__all__ = ["Runner", "make_fabric", "share_of_batch"]


class Runner(nn.Module):
    """Run functions of the model inside one `forward`.

    Strategies such as DDP hook themselves into `forward`, while a world model's losses are methods of their own.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[], Any]) -> Any:
        """Call the function."""
        return function()


def make_fabric(config: TrainConfig) -> Fabric:
    """Make the Fabric for this process: alone, or one of several when started by torchrun.

    Raises:
        DeviceError: the device is not there.
    """
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = find_device(name)
    processes, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    devices: Any = 1 if device.type == "cpu" else [device.index or 0]
    strategy: Any = "auto"
    if processes > 1:
        devices = local
        # A stage may train only some parameters; the others get no gradient.
        strategy = DDPStrategy(find_unused_parameters=True)
    fabric = Fabric(
        accelerator=device.type,
        devices=devices,
        num_nodes=max(1, processes // local),
        strategy=strategy,
        precision="bf16-mixed" if config.precision == "bfloat16" else "32-true",
    )
    fabric.launch()
    return fabric


def share_of_batch(batch_size: int, processes: int) -> int:
    """Return how many windows of a batch one process takes."""
    if batch_size % processes:
        raise ConfigError(f"a batch of {batch_size} windows cannot be shared out among {processes} processes evenly.")
    return batch_size // processes
