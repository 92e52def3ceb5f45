"""PPO keeps two checkpoints; the newest is cut short (disk, power); training is run again to go on."""

import sys
from pathlib import Path

from dreamenv import World
from dreamenv.agents import AgentConfig, NetworkConfig, PPOConfig, train_agent
from dreamenv.agents.checkpoints import latest_checkpoint
from dreamenv.dream import DreamConfig

world, out = World.default(), Path(sys.argv[1])
settings = {
    "num_envs": 4,
    "ppo": PPOConfig(n_steps=32, batch_size=64, n_epochs=1),
    "network": NetworkConfig(net_arch=(8,)),
    "dream": DreamConfig(horizon=40),
    "checkpoint_every": 128,
}
train_agent(AgentConfig(total_steps=384, **settings), out=out, world=world, progress=False)
file = latest_checkpoint(out / "checkpoints") / "tensors.safetensors"
file.write_bytes(file.read_bytes()[:1000])
policy = train_agent(AgentConfig(total_steps=512, **settings), out=out, world=world, progress=False)
if policy.record["steps"] < 512:
    raise SystemExit(f"FAIL: went on to {policy.record['steps']} steps alone")
