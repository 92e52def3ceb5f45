"""What worlds do on a device that is not the processor, found without one.

A stand-in for a GPU, since there may be none where tests run: tensors there have shapes and no values (torch's fake
tensors), and refuse to meet the processor's, as a GPU's do. What it cannot show is what comes out, and how fast.

Run as a program, because a device of torch, once named, stays for as long as the process lives. It prints a line of
JSON per preset.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import dreamenv
from dreamenv.presets import make_config
from dreamenv.world_model import WorldModelSpec

_setup_privateuseone_for_python_backend("elsewhere")
torch.elsewhere.get_amp_supported_dtype = lambda: [torch.bfloat16]  # type: ignore[attr-defined]
DEVICE = torch.device("elsewhere:0")
_SOURCES = Path(dreamenv.__file__).parent
_SIDE, _ROWS = 64, 2


class Elsewhere(FakeTensorMode):
    """Lets tensors of the device be computed with, and writes down what makes the processor wait for it.

    Attributes:
        waits: places of dreamenv where a value was copied to the device, or read from it.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.waits: list[str] = []

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, or note a wait."""
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default and args[0].device.type == DEVICE.type:
            self.waits.append(_place())
            return False if args[0].dtype == torch.bool else 0
        copied = func is torch.ops.aten._to_copy.default and args[0].device.type == "cpu"
        if copied and torch.device(kwargs.get("device") or "cpu").type == DEVICE.type:
            if not kwargs.get("non_blocking"):
                self.waits.append(_place())
            return self.moved(args[0], kwargs.get("dtype"))
        return super().dispatch(func, types, args, kwargs)

    def moved(self, tensor: torch.Tensor, dtype: torch.dtype | None = None) -> FakeTensor:
        """Return what a tensor is on the device."""
        with unset_fake_temporarily():
            return FakeTensor(self, torch.empty_like(tensor, device="meta", dtype=dtype), DEVICE)


def main(presets: list[str]) -> None:
    """Take a step in a world of each preset ("backbone:preset")."""
    torch.set_num_threads(1)
    spec = WorldModelSpec(frame_shape=(3, _SIDE, _SIDE), action_space=gym.spaces.Discrete(3), frame_rate=10.0)
    for preset in presets:
        backbone, _, name = preset.partition(":")
        print(json.dumps({"preset": preset, "waits": waits(make_config(backbone, name).build(spec))}))


@torch.no_grad()
def waits(model: Any) -> list[str]:
    """Return where a world waits within a step; a first one, which may keep what it needs there, does not count."""
    model.eval()
    k, layout = model.spec.chunk, model.spec.action_layout
    frames = torch.rand(_ROWS, k, *model.spec.frame_shape)
    actions = torch.zeros(_ROWS, k, *layout.shape, dtype=torch.float32 if layout.dtype.kind == "f" else torch.int64)
    state = model.observe(model.start(frames[:, 0], torch.arange(_ROWS)), actions, frames)

    mode = Elsewhere()
    for module in model.modules():
        for kept in (module._parameters, module._buffers):
            kept.update({key: mode.moved(one) for key, one in kept.items() if one is not None})
    state, frames, actions = state.apply(mode.moved), mode.moved(frames), mode.moved(actions)
    with mode:
        _, state = model.imagine(state, actions)
        mode.waits.clear()
        imagined, state = model.imagine(state, actions)
        embedded = model.embed(state)
        found = list(mode.waits)
        made = (imagined.frames, imagined.rewards, embedded, *state.flatten_keys("/").values())
        assert {one.device for one in made} == {DEVICE}
    return found


def _place() -> str:
    inside = [one for one in traceback.extract_stack() if Path(one.filename).is_relative_to(_SOURCES)]
    return f"{Path(inside[-1].filename).relative_to(_SOURCES)}:{inside[-1].lineno}" if inside else "tests"


if __name__ == "__main__":
    main(sys.argv[1:])
