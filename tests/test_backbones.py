"""Every backbone keeps the contract."""

from __future__ import annotations

from contract import WorldModelContract

from dreamenv.backbones import persistence, rssm


class TestPersistence(WorldModelContract):
    config = persistence.PersistenceConfig()


class TestRSSM(WorldModelContract):
    config = rssm.tiny()
