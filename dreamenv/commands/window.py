"""A window in which a dream is controlled with the keyboard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from dreamenv.commands.keyboard import choose_action, describe_keys
from dreamenv.errors import ConfigError
from dreamenv.extras import require

if TYPE_CHECKING:
    import pygame

    from dreamenv.dream import DreamEnv

__all__ = ["control"]

_LINE = 20  # height of the line of text below the dream, in pixels


def control(
    env: DreamEnv,
    names: Sequence[str],
    *,
    frame_rate: float,
    scale: int,
    seed: int,
    start: int | None = None,
    poll: Callable[[], Sequence[pygame.event.Event]] | None = None,
) -> int:
    """Show a dream and step it at its frame rate until the window is closed.

    Args:
        env: a dream of frames with discrete actions.
        names: of its actions; empty where the world does not say.
        frame_rate: steps per second.
        scale: screen pixels per pixel of the dream.
        seed: of the first dream; those after it continue its stream.
        start: number of the recorded start; None samples one.
        poll: returns the events since its last call; None takes those of pygame.

    Returns:
        How many steps were dreamt.

    Raises:
        ConfigError: actions that keys cannot choose.
        MissingDependencyError: there is no pygame.
    """
    space = env.action_space
    if not isinstance(space, gym.spaces.Discrete):
        raise ConfigError(
            f"keys choose among discrete actions, not {space}; write a video instead: dreamenv play --headless"
        )
    require("pygame", extra="play")
    import pygame

    names = names or [str(action) for action in range(int(space.n))]
    print(f"Keys:\n{describe_keys(names)}\n  R new dream, F5 save, F9 restore, P pause, Escape leave")
    options = {} if start is None else {"start": start}
    frame, _ = env.reset(seed=seed, options=options)
    pygame.init()
    try:
        screen = pygame.display.set_mode((frame.shape[1] * scale, frame.shape[0] * scale + _LINE))
        pygame.display.set_caption("dreamenv")
        font, clock = pygame.font.Font(None, _LINE), pygame.time.Clock()
        held: set[str] = set()
        saved: tuple[Any, Any, float, bool] | None = None
        score, over, paused, steps = 0.0, False, False, 0
        while True:
            for event in poll() if poll else pygame.event.get():
                if event.type == pygame.QUIT:
                    return steps
                if event.type == pygame.KEYUP:
                    held.discard(pygame.key.name(event.key))
                if event.type != pygame.KEYDOWN:
                    continue
                held.add(pygame.key.name(event.key))
                if event.key == pygame.K_ESCAPE:
                    return steps
                if event.key == pygame.K_p:
                    paused = not paused
                if event.key == pygame.K_r:
                    frame, _ = env.reset(options=options)
                    score, over = 0.0, False
                if event.key == pygame.K_F5:
                    saved = env.get_state(), frame, score, over
                if event.key == pygame.K_F9 and saved is not None:
                    state, frame, score, over = saved
                    env.set_state(state)
            action = choose_action(names, held)
            if not (over or paused):
                frame, reward, terminated, truncated, _ = env.step(action)
                score, over, steps = score + float(reward), terminated or truncated, steps + 1
            status = "over: R starts a new dream" if over else "paused" if paused else names[action]
            _draw(screen, font, frame, scale, f"return {score:.4g}   {status}")
            clock.tick(frame_rate)
    finally:
        pygame.quit()


def _draw(screen: pygame.Surface, font: pygame.font.Font, frame: Any, scale: int, text: str) -> None:
    import pygame

    rgb = np.repeat(frame, 3, axis=-1) if frame.shape[-1] == 1 else frame
    picture = pygame.surfarray.make_surface(np.ascontiguousarray(rgb.swapaxes(0, 1)))
    height, width = frame.shape[0] * scale, frame.shape[1] * scale
    screen.fill((0, 0, 0))
    screen.blit(pygame.transform.scale(picture, (width, height)), (0, 0))
    screen.blit(font.render(text, True, (200, 200, 200)), (4, height + 3))
    pygame.display.flip()
