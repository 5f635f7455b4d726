"""HDR pictures (PQ and HLG) to SDR, on small pictures after scaling.

The steps of ITU-R BT.2390 and BT.2408: the signal becomes light of a display in cd/m2 (PQ by
SMPTE ST 2084, HLG by BT.2100 with its OOTF for a peak of 1000), what lies above the knee is
rolled off by the EETF of BT.2390 from 1000 cd/m2 to the 203 cd/m2 of SDR's white, by the
largest of the three channels so that hues stay, BT.2020's primaries become BT.709's with a clip,
and the light is coded for an SDR display (BT.1886, gamma 2.4). The peak is always taken as
1000 cd/m2, whatever the file's metadata says: equal pictures give equal pixels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vidcurate.media.frames import Pixels

Floats = npt.NDArray[np.float32]

PQ = 16
"""Code point of the PQ transfer function (ITU-T H.273)."""
HLG = 18
"""Code point of the HLG transfer function (ITU-T H.273)."""

_PEAK = 1000.0  # cd/m2, of the source
_WHITE = 203.0  # cd/m2, of the result
_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
_A, _B, _C = 0.17883277, 0.28466892, 0.55991073
_LUMA_2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)
_TO_709 = np.array(
    [
        [1.660491, -0.587641, -0.072850],
        [-0.124550, 1.132900, -0.008349],
        [-0.018151, -0.100579, 1.118730],
    ],
    np.float32,
)


def tone_map(rgb: Floats, transfer: int) -> Pixels:
    """SDR BT.709 of an HDR picture.

    Args:
        rgb: (H, W, 3) non-linear BT.2020 RGB, 0..1.
        transfer: PQ or HLG.

    Returns:
        (H, W, 3) uint8, full range.
    """
    light = _light(rgb, transfer)
    brightest = light.max(axis=2, keepdims=True)
    light = light * (_roll_off(brightest) / np.maximum(brightest, 1e-6))
    return _coded(light @ _TO_709.T)


def tone_map_luma(luma: Floats, transfer: int) -> Pixels:
    """SDR luma of HDR luma, as if the picture were grey.

    Args:
        luma: non-linear, 0..1, of any shape.
        transfer: PQ or HLG.

    Returns:
        uint8 of the same shape, full range.
    """
    grey = np.repeat(luma[..., None], 3, axis=-1)
    return _coded(_roll_off(_light(grey, transfer)[..., 0]))


def _light(signal: Floats, transfer: int) -> Floats:
    """Display light in cd/m2 of a non-linear signal with three channels last."""
    signal = np.clip(signal, 0, 1)
    if transfer == PQ:
        return _from_pq(signal)
    scene = np.where(
        signal <= 0.5, signal * signal / 3, (np.exp((signal - _C) / _A) + _B) / 12
    ).astype(np.float32)
    # OOTF of a 1000 cd/m2 display: system gamma 1.2, applied by the scene's luminance.
    luminance = np.maximum((scene @ _LUMA_2020)[..., None], 1e-9)
    return np.asarray(_PEAK * scene * luminance**0.2, np.float32)


def _from_pq(signal: Floats) -> Floats:
    root = signal ** np.float32(1 / _M2)
    return np.asarray(
        10000 * (np.maximum(root - _C1, 0) / (_C2 - _C3 * root)) ** np.float32(1 / _M1),
        np.float32,
    )


def _to_pq(light: Floats) -> Floats:
    power = np.maximum(light / 10000, 0) ** np.float32(_M1)
    return np.asarray(((_C1 + _C2 * power) / (1 + _C3 * power)) ** np.float32(_M2), np.float32)


def _roll_off(light: Floats) -> Floats:
    """The EETF of BT.2390-11, section 5.4.1: a knee, then a Hermite spline to the new peak."""
    top = float(_to_pq(np.array(_PEAK, np.float32)))
    peak = float(_to_pq(np.array(_WHITE, np.float32))) / top
    knee = 1.5 * peak - 0.5
    level = np.minimum(_to_pq(light) / top, 1)
    t = np.maximum((level - knee) / (1 - knee), 0)
    spline = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (3 * t**2 - 2 * t**3) * peak
    )
    rolled = np.where(level < knee, level, spline).astype(np.float32)
    return _from_pq(rolled * np.float32(top))


def _coded(light: Floats) -> Pixels:
    share = np.clip(light / _WHITE, 0, 1) ** np.float32(1 / 2.4)
    return np.asarray(share * 255 + 0.5, np.uint8)
