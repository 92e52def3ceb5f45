"""Which detector belongs to which environment; add one for your own with `register_detector`.

The colours were chosen on frames whose objects the engine itself had labelled. How often each detector is right is
measured against the engines by ``python -m dreamenv.benchmarks.detectors``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dreamenv.errors import ConfigError, UnknownNameError
from dreamenv.metrics.detectors import Channel, ColourDetector, Detector, GridDetector, Mask

__all__ = ["detector_for", "environments_with_detectors", "register_detector"]

_HORIZON = 28  # of 64 rows: the horizon of ViZDoom's level view, less a few pixels


def detector_for(environment_id: str) -> Detector:
    """Return the detector of an environment's objects.

    Raises:
        UnknownNameError: none is known; the message says which environments have one.
    """
    if environment_id not in _DETECTORS:
        raise UnknownNameError(
            "object detector for an environment", environment_id, _DETECTORS,
            f"Environments with one: {', '.join(sorted(_DETECTORS))}. Add your own with "
            "dreamenv.metrics.known_objects.register_detector.",
        )  # fmt: skip
    return _DETECTORS[environment_id]


def register_detector(environment_id: str, detector: Detector) -> None:
    """Make a detector that of an environment, for this process; one that was there is replaced.

    Args:
        environment_id: as recordings have it, such as "dreamenv/VizdoomTakeCover-v0" or "my_package:MyEnv-v0".
        detector: a `ColourDetector`, a `GridDetector`, or a subclass of `Detector` of your own.

    Raises:
        ConfigError: an empty id, or something that is no detector.
    """
    if not environment_id or not isinstance(detector, Detector):
        raise ConfigError(f"register_detector needs an environment's id and a Detector, not {environment_id!r} and "
                          f"{detector!r}.")  # fmt: skip
    _DETECTORS[environment_id] = detector


def environments_with_detectors() -> list[str]:
    """Return the ids of the environments that have a detector."""
    return sorted(_DETECTORS)


def _fire(red: Channel, green: Channel, blue: Channel) -> Mask:
    """Yellow to white light; the bricks behind it are at most 140 bright."""
    return (red > 150) & (green > 120) & (red - blue > 60)


def _white_box(red: Channel, green: Channel, blue: Channel) -> Mask:
    """Neutral and bright; the walls of HealthGathering are as bright up close, but yellowish."""
    least = np.minimum(np.minimum(red, green), blue)
    most = np.maximum(np.maximum(red, green), blue)
    return (least > 80) & (most - least < 40) & (blue - red >= -10)


def _vest_green(red: Channel, green: Channel, blue: Channel) -> Mask:
    return (green - red > 15) & (green - blue > 15) & (green > 55)


def _vest_grey(red: Channel, green: Channel, blue: Channel) -> Mask:
    least = np.minimum(np.minimum(red, green), blue)
    most = np.maximum(np.maximum(red, green), blue)
    return (least > 50) & (most - least < 45)


def _red(red: Channel, green: Channel, blue: Channel) -> Mask:
    return (red - green > 60) & (red - blue > 60)


def _magenta(red: Channel, green: Channel, blue: Channel) -> Mask:
    return (red - green > 70) & (blue - green > 40)


def _template(rows: str) -> npt.NDArray[np.uint8]:
    """Turn rows of hexadecimal colours into RGBA; dots are transparent."""
    pixels = [
        [(0, 0, 0, 0) if "." in cell else (*bytes.fromhex(cell), 255) for cell in row.split()]
        for row in rows.strip().splitlines()
    ]
    return np.asarray(pixels, np.uint8)


# Crafter's own pictures (MIT licence) at 7x7 pixels, the size of a cell in frames of 64x64.
_ZOMBIE = _template("""
    ...... ...... ...... 347646 ...... ...... ......
    ...... ...... ...... 347646 ...... ...... ......
    ...... 8fc09c 347646 184424 347646 184424 ......
    ...... 184424 8fc09c 347646 184424 8fc09c ......
    ...... 347646 8fc09c 347646 184424 8fc09c 000000
    ...... ...... 8fc09c ...... 184424 000000 ......
    ...... ...... 8fc09c 000000 184424 000000 ......
""")
_SKELETON = _template("""
    ...... ...... ...... 000000 000000 ...... ......
    ...... 8f7340 ...... ...... ...... ...... ......
    a38855 c8c8c8 999999 999999 999999 999999 c8c8c8
    8f7340 ...... ...... 999999 999999 ...... 999999
    ...... 8f7340 ...... 5f5f5f 999999 000000 000000
    ...... ...... ...... 5f5f5f c8c8c8 ...... ......
    ...... ...... ...... 999999 999999 000000 ......
""")
_COW = _template("""
    ...... ...... ...... ...... ...... ...... ......
    ...... 996a52 6d3f27 ...... ...... ...... ......
    6d3f27 6d3f27 d8d8d8 996a52 996a52 d8d8d8 ......
    ...... 996a52 d8d8d8 6d3f27 d8d8d8 6d3f27 ......
    ...... d8d8d8 ...... 000000 000000 d8d8d8 000000
    ...... 4f2a16 000000 ...... ...... 4f2a16 000000
    ...... ...... ...... ...... ...... ...... ......
""")

_DETECTORS: dict[str, Detector] = {
    "dreamenv/VizdoomTakeCover-v0": ColourDetector(kinds=("fireballs",), colours=(_fire,)),
    "dreamenv/VizdoomHealthGathering-v0": ColourDetector(kinds=("medkits",), colours=(_white_box,)),
    "dreamenv/VizdoomMyWayHome-v0": ColourDetector(
        kinds=("vests",), colours=(_vest_green, _vest_grey), least=3, most=400, top=_HORIZON, elongation=3.0
    ),
    "dreamenv/MiniworldOneRoom-v0": ColourDetector(kinds=("boxes",), colours=(_red,), least=3, single=True),
    "dreamenv/MinetestNavigate-v0": ColourDetector(kinds=("beacons",), colours=(_magenta,), least=3, single=True),
    "dreamenv/Crafter-v0": GridDetector(
        kinds=("zombies", "skeletons", "cows"),
        templates={"zombies": _ZOMBIE, "skeletons": _SKELETON, "cows": _COW},
        rows=7,  # the two below show the inventory
        columns=9,
        threshold=0.8,
        tolerance=7.5,  # a creature may have walked one cell further
    ),
}
