"""States that no dream could be in: refused with a typed error, and the environment goes on as before."""

import numpy as np
import torch

from dreamenv import DreamVectorEnv
from dreamenv.errors import DreamenvError

env = DreamVectorEnv(num_envs=3, observation="latent")
env.reset(seed=1)
for _ in range(3):
    env.step(np.zeros(3, int))
good = env.get_state()
dream = good["dream"]
memory = next(name for name in ("deter", "memory") if name in dream.keys())
latent = next(name for name, entry in dream.items() if entry.dtype == torch.int64 and not name.startswith("rng"))


def broken(name, entry, change):
    state = good.clone()
    state[entry] = change(state[entry])
    return name, state


cases = [
    broken("memory of width 1", ("dream", memory), lambda entry: entry[:, :1]),
    broken("NaN memory", ("dream", memory), lambda entry: torch.full_like(entry, float("nan"))),
    broken("latent 999", ("dream", latent), lambda entry: torch.full_like(entry, 999)),
    broken("NaN temperature", ("dream", "temperature"), lambda entry: torch.full_like(entry, float("nan"))),
    broken("steps -1", "steps", lambda entry: torch.full_like(entry, -1)),
    broken("row_key int16", "row_key", lambda entry: entry.to(torch.int16)),
    ("None", None),
]
bad = []
for name, state in cases:
    try:
        env.set_state(state)
        bad.append(f"{name}: accepted")
    except DreamenvError:
        pass
    env.set_state(good)
    env.reset(seed=0)
    env.step(np.zeros(3, int))
    env.set_state(good)
if bad:
    raise SystemExit("FAIL: " + "; ".join(bad))
