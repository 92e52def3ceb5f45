"""Agents: PPO in dreams and in real environments, saved policies, and the evaluation of any policy.

Names are imported on first use, so that reading a configuration does not wait for torch and stable-baselines3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreamenv.lazy import on_first_use

if TYPE_CHECKING:
    from dreamenv.agents.actors import Actor, RandomActor
    from dreamenv.agents.collecting import CollectionPolicy
    from dreamenv.agents.config import AgentConfig, NetworkConfig, PPOConfig
    from dreamenv.agents.dream import DreamVecEnv
    from dreamenv.agents.evaluation import evaluate
    from dreamenv.agents.mixed import MixedVecEnv
    from dreamenv.agents.observations import FrameStack, ObservationConfig
    from dreamenv.agents.ppo import make_training_env, train_agent
    from dreamenv.agents.real import RealVecEnv
    from dreamenv.agents.results import Evaluation
    from dreamenv.agents.saved_policy import SavedPolicy
    from dreamenv.dream.rewards import RewardFunction
    from dreamenv.envs import EnvironmentMaker

__all__ = [
    "Actor",
    "AgentConfig",
    "CollectionPolicy",
    "DreamVecEnv",
    "EnvironmentMaker",
    "Evaluation",
    "FrameStack",
    "MixedVecEnv",
    "NetworkConfig",
    "ObservationConfig",
    "PPOConfig",
    "RandomActor",
    "RealVecEnv",
    "RewardFunction",
    "SavedPolicy",
    "evaluate",
    "make_training_env",
    "train_agent",
]

__getattr__, __dir__ = on_first_use(
    __name__,
    {
        "Actor": "actors",
        "AgentConfig": "config",
        "CollectionPolicy": "collecting",
        "DreamVecEnv": "dream",
        "EnvironmentMaker": "real",
        "Evaluation": "results",
        "FrameStack": "observations",
        "MixedVecEnv": "mixed",
        "NetworkConfig": "config",
        "ObservationConfig": "observations",
        "PPOConfig": "config",
        "RandomActor": "actors",
        "RealVecEnv": "real",
        "RewardFunction": "evaluation",
        "SavedPolicy": "saved_policy",
        "evaluate": "evaluation",
        "make_training_env": "ppo",
        "train_agent": "ppo",
    },
)
