"""Freed memory is kept for the next step, where the C library is glibc."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
from drifting import make_world

from dreamenv import allocator
from dreamenv.agents import AgentConfig, train_agent
from dreamenv.dream import DreamVectorEnv
from dreamenv.errors import ConfigError

PAGE_FAULTS = """
import resource, sys, torch
from dreamenv.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory() and keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 24).add(1).sum()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(8):
    faults()
print(sum(faults() for _ in range(3)))
"""


def page_faults(argument):
    unset = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LD_PRE"))}
    child = subprocess.run(
        [sys.executable, "-c", PAGE_FAULTS, argument], capture_output=True, text=True, check=True, env=unset
    )
    return int(child.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_large_buffers_are_not_mapped_anew_at_every_step():
    """Of three tries one must do: a machine that takes idle pages back adds faults of its own."""
    tries = []
    for _ in range(3):
        tries.append((page_faults("keep"), page_faults("map")))
        if tries[-1][0] < 0.5 * tries[-1][1]:
            return
    pytest.fail(f"page faults with memory kept, and without: {tries}")


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"])
def test_thresholds_of_the_users_own_are_left_alone(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert not allocator.keep_freed_memory.__wrapped__()


def test_nothing_is_called_where_the_c_library_is_another(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("it called the C library"))
    assert not allocator.keep_freed_memory.__wrapped__()


def test_dreams_and_policies_keep_it_too(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("dreamenv.dream.batch.keep_freed_memory", lambda: asked.append("dream"))
    monkeypatch.setattr("dreamenv.agents.ppo.keep_freed_memory", lambda: asked.append("policy"))
    DreamVectorEnv(make_world(), num_envs=2).close()
    assert asked == ["dream"]
    with pytest.raises(ConfigError):
        train_agent(AgentConfig(where="real"), out=tmp_path)
    assert asked[1:] == ["policy"]
