"""The policies' networks: stable-baselines3's, with a small convolutional features extractor for frames.

What keeps it fast on a CPU: few channels, a first layer that looks at each pixel once, the channels_last layout
(convolutions with few channels run about twice as fast in it), and bytes that are converted and laid out in one pass,
their division by 255 moved into the first layer's weights.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn
from torch.nn import functional

from dreamenv.agents.actions import PolicyActions
from dreamenv.agents.config import AgentConfig

__all__ = [
    "FrameCNN",
    "FramePolicy",
    "build_policy",
    "load_tensors",
    "policy_class",
    "policy_settings",
    "tensors_of",
]

_PATCH = 4  # pixels


class FrameCNN(BaseFeaturesExtractor):
    """A patch embedding, two strided convolutions and a linear layer.

    Args:
        observation_space: (channels, height, width) uint8.
        channels: of the three convolutions.
        features_dim: width of the output.
    """

    def __init__(self, observation_space: gym.spaces.Box, channels: tuple[int, int, int], features_dim: int) -> None:
        super().__init__(observation_space, features_dim)
        depth, height, _ = observation_space.shape
        last_stride = 2 if height // _PATCH > 8 else 1  # ends in a 4x4 grid for frames of 32 and of 64 pixels
        self.patches = nn.Conv2d(depth, channels[0], _PATCH, _PATCH)
        self.convolutions = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels[0], channels[1], 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels[1], channels[2], 3, stride=last_stride, padding=1),
            nn.ReLU(),
        )
        with torch.no_grad():
            width = self.convolutions(self.patches(torch.zeros(1, *observation_space.shape))).numel()
        self.linear = nn.Sequential(nn.Flatten(), nn.Linear(width, features_dim), nn.ReLU())

    def forward(self, observations: Tensor) -> Tensor:
        """Turn (b, c, h, w), uint8 or float32 in [0, 1], into (b, features_dim)."""
        laid_out = observations.to(torch.float32, memory_format=torch.channels_last)
        weight = self.patches.weight / 255 if observations.dtype == torch.uint8 else self.patches.weight
        patches = functional.conv2d(laid_out, weight, self.patches.bias, stride=_PATCH)
        result: Tensor = self.linear(self.convolutions(patches))
        return result


class FramePolicy(ActorCriticPolicy):
    """Hands frames over as bytes while it learns, where stable-baselines3 makes three copies of them on the way."""

    def extract_features(  # type: ignore[override]  # as its own base class does
        self, obs: Any, features_extractor: BaseFeaturesExtractor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Extract features from frames."""
        extractor = self.features_extractor if features_extractor is None else features_extractor
        result: Tensor = extractor(obs)
        return result


def policy_class(config: AgentConfig) -> type[ActorCriticPolicy]:
    """Return the class of the policy that a configuration asks for."""
    if config.algorithm == "recurrent_ppo":
        return RecurrentActorCriticPolicy
    return FramePolicy if config.observation.kind == "frame" else ActorCriticPolicy


def policy_settings(config: AgentConfig) -> dict[str, Any]:
    """Return what stable-baselines3 calls ``policy_kwargs``."""
    network = config.network
    settings: dict[str, Any] = {"net_arch": {"pi": list(network.net_arch), "vf": list(network.net_arch)}}
    if config.observation.kind == "frame":
        settings["features_extractor_class"] = FrameCNN
        settings["features_extractor_kwargs"] = {"channels": network.channels, "features_dim": network.features_dim}
    if config.algorithm == "recurrent_ppo":
        settings |= {"lstm_hidden_size": network.lstm_hidden_size, "enable_critic_lstm": False, "shared_lstm": True}
    return settings


def build_policy(
    config: AgentConfig, observation_space: gym.Space[Any], action_space: gym.Space[Any]
) -> ActorCriticPolicy:
    """Make an untrained policy for an environment of these spaces."""
    policy: ActorCriticPolicy = policy_class(config)(
        observation_space,
        PolicyActions(action_space).space,
        lambda _: config.ppo.learning_rate,
        **policy_settings(config),
    )
    return policy


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's parameters on the CPU, each once (actor and critic share their features extractor)."""
    return {name: value.detach().cpu().contiguous() for name, value in network.named_parameters()}


def load_tensors(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put back what `tensors_of` gave.

    Raises:
        ValueError: names or shapes are not this network's.
    """
    parameters = dict(network.named_parameters())
    if set(parameters) != set(tensors):
        raise ValueError(f"its parameters differ: {sorted(set(parameters) ^ set(tensors))[:3]}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != tensors[name].shape:
                raise ValueError(f"{name} is {tuple(tensors[name].shape)}, not {tuple(parameter.shape)}")
            parameter.copy_(tensors[name])
