"""The score of any policy: fixed episodes, each counted once, in a dream or in a real environment.

The environment's and the filter's randomness follow from an episode's seed, and so does that of a `SavedPolicy`: an
episode then depends on its seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from dreamenv.agents.actors import RandomActor
from dreamenv.agents.batch_policy import Policy, Predictor, check_actions, observation_normalizer
from dreamenv.agents.dream import DreamVecEnv
from dreamenv.agents.episodes import play_episodes
from dreamenv.agents.observations import ObservationConfig
from dreamenv.agents.real import RealVecEnv
from dreamenv.agents.results import Evaluation
from dreamenv.agents.rows import RowsVecEnv
from dreamenv.agents.saved_policy import SavedPolicy
from dreamenv.agents.views import View, check_view, find_view, read_view
from dreamenv.checks import check_instance, check_whole, show, to_array
from dreamenv.dream.config import DreamConfig
from dreamenv.dream.reconstruction import NEEDS_WORLD
from dreamenv.dream.rewards import RewardFunction
from dreamenv.envs import EnvironmentMaker
from dreamenv.envs.lookup import REMEDY, near_names
from dreamenv.envs.make import full_id
from dreamenv.errors import ConfigError, PolicyError, SeedError, UnknownNameError
from dreamenv.folders import is_world_name
from dreamenv.shipped import shipped_worlds
from dreamenv.world import World

__all__ = ["evaluate"]

_LAST_SEED = 2**62
_MOST_EPISODES = 10**6


def evaluate(
    policy: Policy | str | Path,
    target: World | EnvironmentMaker | Path,
    *,
    episodes: int = 100,
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    num_envs: int | None = None,
    world: World | str | Path | None = None,
    revise: bool = True,
    observation: ObservationConfig | Literal["frame", "latent"] | None = None,
    deterministic: bool = False,
    config: DreamConfig | None = None,
    reward_fn: RewardFunction | None = None,
    progress: bool = False,
    **settings: Any,
) -> Evaluation:
    """Play episodes with a policy and sum up.

    Args:
        policy: a `SavedPolicy`, its folder or that of the run that trained it; "random"; a model of stable-baselines3
            or sb3-contrib, or anything else with their ``predict``; or a function of observations (b, ...) that returns
            actions (b, ...) of the environment.
        target: a world to dream in, or where it is (see `World.load`); or a real environment, as `make_real` takes it.
        episodes: how many; their seeds are ``seed, seed + 1, ...``.
        seed: of the first episode.
        seeds: the episodes' seeds themselves; overrides ``episodes`` and ``seed``.
        num_envs: rows played at once; None for 16 dreams or 8 real ones. It does not change the result, unless a
            predictor samples: it does so for all rows from one generator.
        world: whose filter makes a real environment's latents, or where it is; needed where the policy reads latents.
        revise: of latents in a real environment that loses frames, see `LatentFilter`.
        observation: what the policy sees; None for what fits its observation space or, where it has none, frames
            (b, h, w, c) uint8.
        deterministic: act greedily instead of sampling; a function acts as it does.
        config: how to dream; None for dreams that start where recorded episodes did, as real ones do.
        reward_fn: gives a dream's rewards instead of the world, see `DreamVectorEnv`.
        progress: show a progress bar.
        **settings: fields of `DreamConfig` (``horizon=128``), which replace those of ``config``.

    Raises:
        WorldNotFoundError, CheckpointError: no world or policy is where it was said to be.
        PolicyError: the policy's observation or action space is not the environment's, or it cannot be read.
        WorldMismatchError: the real environment is not the one that the policy, or its world, was learned from.
        SeedError: a negative or doubled seed.
        ConfigError, UnknownKeywordError: no episodes, latents without a world, or settings that cannot work.
    """
    chosen = _read_seeds(episodes, seed, seeds)
    if config is not None:
        check_instance("config", config, DreamConfig)
    dream = DreamConfig.resolve(config or DreamConfig(episode_starts_only=True), settings, caller=evaluate)
    if isinstance(policy, str | Path) and policy != "random":
        policy = SavedPolicy.load(policy)
    if isinstance(policy, type):
        name = policy.__name__
        raise PolicyError(f"{name} is a class; pass a model made with it, such as {name}.load(path).")
    if isinstance(target, Path) or (isinstance(target, str) and is_world_name(target)):
        target = World.load(target)
    world = World.load(world) if isinstance(world, str | Path) else world
    saved = policy if isinstance(policy, SavedPolicy) else None
    usual = 16 if isinstance(target, World) else 8
    rows = min(usual if num_envs is None else check_whole("num_envs", num_envs, also=", or None"), len(chosen))
    source = target if isinstance(target, World) else world
    if saved is not None:
        _check_world(saved, source)
    views: list[View] = []

    def choose(frame_shape: tuple[int, int, int]) -> ObservationConfig:
        views.append(_choose_view(policy, observation, frame_shape, source))
        return views[-1].config

    env: RowsVecEnv
    name, score_name = "dream", ""
    if isinstance(target, World):
        provenance = target.provenance
        channels, height, width = target.spec.frame_shape
        shown = choose((height, width, channels))
        env = DreamVecEnv(target, rows, observation=shown, config=dream, reward_fn=reward_fn)
    else:
        _check_environment(target)  # an unknown name is refused as such, whatever else was given
        _refuse_dream_settings(config=config, reward_fn=reward_fn, **settings)
        env = RealVecEnv(target, rows, observation=choose, world=world, revise=revise)
        provenance = env.provenance
        name, score_name = provenance.environment_id, provenance.score
    try:
        if isinstance(policy, str | Path):
            policy = RandomActor(env.environment_actions)
        if saved is not None and saved.provenance is not None and provenance is not None:
            saved.provenance.check_matches(provenance)
        _check_spaces(policy, env, views[-1])
        return play_episodes(
            policy, env, chosen, view=views[-1], deterministic=deterministic, progress=progress, target=name,
            score_name=score_name,
        )  # fmt: skip
    finally:
        env.close()


def _read_seeds(episodes: int, seed: int, seeds: Sequence[int] | None) -> list[int]:
    if seeds is None:
        first = check_whole("seed", seed, least=0, most=_LAST_SEED, error=SeedError)
        return list(range(first, first + check_whole("episodes", episodes, most=_MOST_EPISODES)))
    every = to_array("seeds", seeds, error=SeedError)
    if every.ndim != 1:
        raise SeedError(f"seeds must be a list of whole numbers, not {show(seeds)}.")
    chosen = [check_whole("seeds", one, least=0, most=_LAST_SEED, error=SeedError) for one in seeds]
    if not chosen:
        raise ConfigError("seeds must hold at least 1, one for each episode, not none.")
    if len(set(chosen)) < len(chosen):
        raise SeedError("seeds must be all different, so that no episode is counted twice.")
    return chosen


def _check_environment(target: EnvironmentMaker) -> None:
    try:
        full_id(target)
    except UnknownNameError:
        if not isinstance(target, str) or ":" in target:
            raise
        near = {*near_names(target), *shipped_worlds()}
        raise UnknownNameError("folder of a world, nor real environment,", target, near, REMEDY) from None


def _refuse_dream_settings(**given: Any) -> None:
    """Refuse what would have no effect in a real environment."""
    for name, value in given.items():
        if value is not None:
            raise ConfigError(f"{name} is a setting of dreams, and the target is a real environment; leave it out.")


def _observation_space(policy: Any) -> Any:
    """Return the space of the observations that a policy was trained on; None where it does not say."""
    if isinstance(policy, SavedPolicy):
        return policy.observation_space
    if not isinstance(policy, Predictor):
        return None
    normalizer = observation_normalizer(policy)
    return getattr(policy, "observation_space", None) if normalizer is None else normalizer.venv.observation_space


def _choose_view(
    policy: Any,
    observation: ObservationConfig | Literal["frame", "latent"] | None,
    frame_shape: tuple[int, int, int],
    world: World | None,
) -> View:
    if isinstance(policy, SavedPolicy):
        if observation is not None and read_view(observation).config != policy.config.observation:
            raise ConfigError(f"this policy was trained on {policy.config.observation}; leave observation out.")
        return View(policy.config.observation)
    space = _observation_space(policy)
    if observation is None and space is not None:
        return find_view(space, frame_shape, world)
    return read_view(observation or "frame")


def _check_spaces(policy: Any, env: RowsVecEnv, view: View) -> None:
    space = _observation_space(policy)
    if space is not None:
        check_view(space, view.arrange_space(env.observation_space))
    check_actions(policy, env)


def _check_world(policy: SavedPolicy, world: World | None) -> None:
    """Refuse latents of a world that the policy was not trained on."""
    observation = policy.config.observation
    if observation.kind != "latent" and not observation.reconstructed:
        return
    if world is None:
        what = "latents: give the world whose filter makes them" if observation.kind == "latent" else NEEDS_WORLD
        raise ConfigError(f"this policy reads {what}, world=World.load(...).")
    if policy.world_hash and policy.world_hash != f"{world.fingerprint:016x}":
        raise ConfigError(
            f"this policy sees through another world ({policy.world_hash}, not {world.fingerprint:016x}); "
            "give the world it was trained on."
        )
