"""The worker process that runs MineRL, in MineRL's own Python interpreter.

That interpreter need not have dreamenv, and may be as old as Python 3.7: the modules of this package import only the
standard library, numpy, gym, minerl, and one another. It is started as ``python <this folder> REQUESTS REPLIES FRAME
ALIVE PARENT``: file descriptors of two pipes, of an anonymous file for the frame and of a pipe that closes when
dreamenv dies, and dreamenv's process id. Its working directory is private.

It forks: the child serves requests (`server`), the parent watches over it (`watchdog`).

Protocol, version 1: each message is a 4-byte big-endian length and that many bytes of JSON. A request is
``{"op": ..., ...}``; its answer ``{"ok": true, ...}`` or ``{"ok": false, "kind": ..., "message": ...}``.

- ``hello {protocol, env_id, port, measures}`` → ``{protocol, minerl, python, action_space, pov}``: the first message.
  ``port``: of a running game, or null; ``measures``: which of "logs" and "metres" to measure.
- ``reset {seed}`` → ``{info}``;
- ``step {action, ticks}`` → ``{ticks, reward, max_reward, done, info, logs, metres}``;
- ``close {}`` → ``{}``, the last message.

After reset and step the shared file holds the frame, (height, width, 3) uint8 RGB with the top row first.
"""
