"""Layers shared by backbones, denoisers, codecs and heads."""
