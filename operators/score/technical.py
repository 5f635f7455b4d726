"""`technical`: what the container and the packets say of a clip, without looking at a picture."""

from __future__ import annotations

from vidcurate import Clip, column, scorer


@scorer(
    "technical",
    columns={
        "duration": column(
            "float64", unit="seconds", range=(0, None), description="length of the clip"
        ),
        "width": column(
            "int32", unit="pixels", range=(1, None), description="displayed width, after the crop"
        ),
        "height": column(
            "int32", unit="pixels", range=(1, None), description="displayed height, after the crop"
        ),
        "short_side": column(
            "int32", unit="pixels", range=(1, None), description="the smaller of width and height"
        ),
        "aspect": column(
            "float32", unit="width / height", range=(0, None), description="shape of the picture"
        ),
        "fps": column(
            "float64",
            unit="frames per second",
            range=(0, None),
            description="true frame rate, from the times of the clip's decoded frames",
        ),
        "vfr": column("bool", description="the distances between frames vary"),
        "codec": column("string", description="FFmpeg's name of the source's video codec"),
        "bit_depth": column(
            "int32", unit="bits", range=(8, 16), description="bits of one luma value"
        ),
        "bitrate": column(
            "int64",
            unit="bits per second",
            range=(0, None),
            description="of the clip's own video packets",
        ),
        "bits_per_pixel": column(
            "float32",
            unit="bits per pixel of a frame",
            range=(0, None),
            description="video bits over all coded pixels of the clip",
        ),
        "has_audio": column("bool", description="the source has a sound track"),
        "interlaced": column("bool", description="the stream says that it is interlaced"),
        "hdr": column("bool", description="PQ or HLG transfer function"),
        "rotation": column(
            "int32",
            unit="degrees clockwise",
            range=(0, 270),
            description="turn that the display applies; width and height have it applied",
        ),
    },
)
def technical(clip: Clip) -> dict[str, object]:
    """Size, rate, codec and bits of a clip; costs nothing, as no frame is asked for.

    `bits_per_pixel` = bits of the clip's video packets / (frames * coded width * coded height);
    the crop does not enter it, as the packets hold the whole picture. It compares compression
    only within one codec: web H.264 has about 0.05 to 0.15, below 0.03 blocks are seen.
    `fps`, `bitrate` and `bits_per_pixel` are null where they cannot be known (a clip of one
    frame, no packet sizes).
    """
    video = clip.video
    bits = clip.n_bytes * 8
    pixels = clip.n_frames * video.coded_width * video.coded_height
    known = bits > 0 and clip.duration > 0 and pixels > 0
    return {
        "duration": clip.duration,
        "width": clip.width,
        "height": clip.height,
        "short_side": min(clip.width, clip.height),
        "aspect": clip.width / clip.height,
        "fps": clip.fps if clip.fps > 0 else None,
        "vfr": clip.vfr,
        "codec": video.codec,
        "bit_depth": video.bit_depth,
        "bitrate": round(bits / clip.duration) if known else None,
        "bits_per_pixel": bits / pixels if known else None,
        "has_audio": video.has_audio,
        "interlaced": video.interlaced,
        "hdr": video.is_hdr,
        "rotation": video.rotation,
    }
