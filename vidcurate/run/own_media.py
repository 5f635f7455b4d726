"""Scoring a clip again from its own media, where its source is gone (`media: clips`).

The frames keep their places in source time, so that sampling grids give the same frames as the
source would. The frame before the clip is not in its media: it is taken to lie one frame of the
nominal rate earlier.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

from vidcurate.errors import DecodeError
from vidcurate.media.decode import Decoder
from vidcurate.media.sampling import Shot, shots
from vidcurate.media.video import VideoInfo


def source_info(info: VideoInfo, video: Mapping[str, Any]) -> VideoInfo:
    """What operators are told of the clip's video: facts of the source, geometry of the media.

    Args:
        info: the probe of the clip's media.
        video: the committed row of the source.
    """
    facts = (
        "container",
        "codec",
        "pix_fmt",
        "bit_depth",
        "start_pts",
        "container_start",
        "duration",
        "bitrate",
        "size_bytes",
        "interlaced",
        "color_matrix",
        "color_range",
        "color_transfer",
        "color_primaries",
        "has_audio",
        "audio_codec",
        "audio_rate",
        "audio_channels",
    )
    return replace(
        info,
        fps=Fraction(video["fps_num"], video["fps_den"]),
        time_base=Fraction(video["time_base_num"], video["time_base_den"]),
        **{name: video[name] for name in facts},
    )


def own_shots(decoder: Decoder, row: Mapping[str, Any], source: VideoInfo) -> Iterator[Shot]:
    """The frames of a clip's media at their places in the source.

    Args:
        decoder: of the media.
        row: the clip's committed row.
        source: its `source_info`.

    Raises:
        DecodeError: the media does not hold the clip's frames.
    """
    base, start = source.time_base, int(row["start_pts"])

    def place(pts: int) -> int:
        return start + round((pts - decoder.info.start_pts) * decoder.info.time_base / base)

    zero = source.start_pts
    count = 0
    previous = -1.0
    if start > zero:
        previous = max(0.0, float((start - zero) * base - 1 / (source.fps or Fraction(25))))
    for shot in shots(decoder, None, None):
        count += 1
        pts, end_pts = place(shot.pts), place(shot.end_pts)
        if count == row["n_frames"]:
            end_pts = row["end_pts"]  # the last frame's length is the container's word
        time = (pts - zero) * base.numerator / base.denominator
        end = (end_pts - zero) * base.numerator / base.denominator
        yield Shot(
            shot.frame, shot.index, pts, end_pts, time, end - time, previous, shot.bytes_before
        )
        previous = time
    if count != row["n_frames"]:
        raise DecodeError(
            f"{decoder.info.path}: holds {count} frames of the clip's {row['n_frames']}; "
            "bring the source back, or run with --fresh"
        )
