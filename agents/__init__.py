"""Agents: PPO in dreams and in real environments, saved policies, and the evaluation of any policy."""

from __future__ import annotations

from dreamenv.agents.actors import Actor, RandomActor
from dreamenv.agents.collecting import CollectionPolicy
from dreamenv.agents.config import AgentConfig, NetworkConfig, PPOConfig
from dreamenv.agents.dream import DreamVecEnv
from dreamenv.agents.evaluation import evaluate
from dreamenv.agents.mixed import MixedVecEnv
from dreamenv.agents.observations import FrameStack, ObservationConfig
from dreamenv.agents.ppo import make_training_env, train_agent
from dreamenv.agents.real import EnvironmentMaker, RealVecEnv
from dreamenv.agents.results import Evaluation
from dreamenv.agents.saved_policy import SavedPolicy
from dreamenv.dream.rewards import RewardFunction

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
