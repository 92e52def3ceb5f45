"""Prediction as compression: a world and a small pixel head turn a clip into few bytes, and those into the same pixels.

A world dreams the next frame; a dream is a pure function of its state and its actions, so sender and receiver have the
same one. The pixel head (`dreamenv.compression.pixel_head`) gives every level of every pixel a probability, given that
dream, the frames before and the pixels decoded so far; range coding turns probabilities into bytes.
"""

from __future__ import annotations

from dreamenv.compression.clip_codec import Clip, CodedClip, compress, decompress, ideal_bits
from dreamenv.compression.clips import read_clip, write_clip
from dreamenv.compression.head_files import HEAD_FOLDER, TrainedHead
from dreamenv.compression.learning import HeadTraining, train_pixel_head
from dreamenv.compression.pixel_head import PixelHead, PixelHeadConfig

__all__ = [
    "HEAD_FOLDER",
    "Clip",
    "CodedClip",
    "HeadTraining",
    "PixelHead",
    "PixelHeadConfig",
    "TrainedHead",
    "compress",
    "decompress",
    "ideal_bits",
    "read_clip",
    "train_pixel_head",
    "write_clip",
]
