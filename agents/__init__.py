"""Agents: PPO in dreams and in reality, saved policies, evaluation outside."""

from __future__ import annotations

from dreamenv.agents.collecting import CollectionPolicy
from dreamenv.agents.config import AgentConfig
from dreamenv.agents.dream import DreamVecEnv, RewardFunction
from dreamenv.agents.evaluation import Actor, Evaluation, RandomActor, evaluate
from dreamenv.agents.mixed import MixedVecEnv
from dreamenv.agents.observations import FrameStack, ObservationConfig
from dreamenv.agents.ppo import make_training_env, train_agent
from dreamenv.agents.real import EnvironmentMaker, RealVecEnv
from dreamenv.agents.saved_policy import SavedPolicy

__all__ = [
    "Actor",
    "AgentConfig",
    "CollectionPolicy",
    "DreamVecEnv",
    "EnvironmentMaker",
    "Evaluation",
    "FrameStack",
    "MixedVecEnv",
    "ObservationConfig",
    "RandomActor",
    "RealVecEnv",
    "RewardFunction",
    "SavedPolicy",
    "evaluate",
    "make_training_env",
    "train_agent",
]
