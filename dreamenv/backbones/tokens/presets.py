"""Sizes of token worlds."""

from __future__ import annotations

import dataclasses

from dreamenv.backbones.rssm.training import RSSMStage
from dreamenv.backbones.tokens.action_tokens import GroupedActionTokensConfig
from dreamenv.backbones.tokens.diagonal import DiagonalOrderConfig
from dreamenv.backbones.tokens.model import TokenWorldConfig
from dreamenv.backbones.tokens.next_scale import NextScaleOrderConfig
from dreamenv.backbones.tokens.raster import RasterOrderConfig
from dreamenv.backbones.tokens.sampling import TokenSampling
from dreamenv.backbones.tokens.training import TokenWorldTraining
from dreamenv.backbones.tokens.transformer import TokenTransformerConfig
from dreamenv.codecs.codebook import CodebookConfig
from dreamenv.codecs.fsq import FSQConfig
from dreamenv.codecs.fsq_tokens import FSQTokenizerConfig
from dreamenv.codecs.grid import ConvGridConfig
from dreamenv.codecs.multi_scale import MultiScaleTokenizerConfig
from dreamenv.codecs.tokenizer import TokenizerTraining
from dreamenv.codecs.vq import VQTokenizerConfig
from dreamenv.heads.reward_termination import RewardTerminationHeadConfig

__all__ = ["PRESETS", "iris", "mineworld", "next_scale", "small", "tiny"]


def small() -> TokenWorldConfig:
    """For two CPU cores: 64 tokens of a frame of 64x64, drawn in 15 passes.

    In this order every slot of a frame predicts a token; in a masked one, each of which is predicted in one of four
    passes over twice as many slots, the same time teaches a quarter of it.
    """
    return TokenWorldConfig(
        tokenizer=FSQTokenizerConfig(code_noise=0.1, rate_weight=0.1),
        transformer=TokenTransformerConfig(context=3, width=192, depth=4, heads=4, kv_heads=4, hidden=512),
        order=DiagonalOrderConfig(),
        training=TokenWorldTraining(
            dynamics=RSSMStage(steps=3000, batch_size=4, sequence_length=8, learning_rate=2e-3)
        ),
    )


def tiny() -> TokenWorldConfig:
    """For tests: trains in seconds."""
    return TokenWorldConfig(
        tokenizer=FSQTokenizerConfig(
            codec=FSQConfig(scalars=3, channels=(16, 24)),
            training=TokenizerTraining(steps=200, batch_size=8, learning_rate=2e-3),
        ),
        transformer=TokenTransformerConfig(context=3, width=32, depth=2, heads=2, kv_heads=1, hidden=64),
        head=RewardTerminationHeadConfig(hidden_size=16),
        training=TokenWorldTraining(
            dynamics=RSSMStage(steps=200, batch_size=16, sequence_length=12, learning_rate=1e-3)
        ),
    )


def iris() -> TokenWorldConfig:
    """The published sizes of IRIS (Micheli et al. 2023) on 64x64: 16 tokens of 512, and a window of 20 frames.

    The tokenizer's networks are ours; three matrices of a feed-forward layer have the weights of two four times as wide
    as a token.
    """
    return TokenWorldConfig(
        tokenizer=VQTokenizerConfig(
            grid=ConvGridConfig(patch=4, channels=(64, 64, 64), blocks=2),
            codebook=CodebookConfig(vocabulary=512, width=512),
            training=TokenizerTraining(batch_size=128, learning_rate=1e-4),
        ),
        transformer=TokenTransformerConfig(context=19, width=256, depth=10, heads=4, kv_heads=4, hidden=688),
        order=RasterOrderConfig(),
        head=RewardTerminationHeadConfig(hidden_size=256),
        training=TokenWorldTraining(
            dynamics=RSSMStage(steps=20_000, batch_size=64, sequence_length=20, learning_rate=1e-4)
        ),
    )


def mineworld() -> TokenWorldConfig:
    """The published sizes of MineWorld's smallest model (Guo et al. 2025), for 224x384: 336 tokens of 8,192.

    It predicts neither rewards nor terminations. The tokenizer's networks are ours.
    """
    return TokenWorldConfig(
        tokenizer=VQTokenizerConfig(
            grid=ConvGridConfig(patch=4, channels=(128, 128, 256), blocks=2),
            codebook=CodebookConfig(vocabulary=8192, width=64),
            training=TokenizerTraining(batch_size=32, learning_rate=1e-4),
        ),
        transformer=TokenTransformerConfig(
            context=15, width=1024, depth=20, heads=16, kv_heads=4, hidden=4096, places=False
        ),
        order=RasterOrderConfig(),
        actions=GroupedActionTokensConfig(),
        sampling=TokenSampling(top_p=0.8),
        head=None,
        training=TokenWorldTraining(
            dynamics=RSSMStage(steps=200_000, batch_size=32, sequence_length=16, learning_rate=3e-5), dropout=0.0
        ),
    )


def next_scale() -> TokenWorldConfig:
    """From coarse to fine (VAR, Tian et al. 2024) on 64x64: six scales of up to 8x8, each drawn in one pass."""
    return dataclasses.replace(small(), tokenizer=MultiScaleTokenizerConfig(), order=NextScaleOrderConfig())


PRESETS = {"small": small, "tiny": tiny, "iris": iris, "mineworld": mineworld, "next_scale": next_scale}
