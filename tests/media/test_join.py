from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vidcurate.errors import DecodeError, RefusedMediaError, UnsupportedMediaError
from vidcurate.media.join import join
from vidcurate.media.open import open_video
from vidcurate.media.probe import probe

Decoded = list[tuple[Fraction, bytes]]


def decoded(path: Path, kind: str) -> Decoded:
    """Time in seconds and content of each frame of the first stream of that kind."""
    with open_video(path) as container:
        stream = getattr(container.streams, kind)[0]
        return [(f.pts * f.time_base, f.to_ndarray().tobytes()) for f in container.decode(stream)]


def sound(path: Path, codec: str, seconds: float, *, begin: float = 0.0) -> Path:
    """A file of sound alone, 48 kHz mono, that starts `begin` seconds after 0."""
    rate, size = 48000, 960
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        tone = 0.3 * np.sin(np.arange(int(rate * seconds)) / 20).astype(np.float32)
        planes = av.AudioResampler(stream.format, "mono", rate)
        size = stream.codec_context.frame_size or size
        for at in range(0, len(tone) - size + 1, size):
            frame = av.AudioFrame.from_ndarray(tone[None, at : at + size], "fltp", "mono")
            frame.sample_rate, frame.pts = rate, at + int(begin * rate)
            frame.time_base = Fraction(1, rate)
            for ready in planes.resample(frame):
                container.mux(stream.encode(ready))
        container.mux(stream.encode(None))
    return path


def as_transport_stream(path: Path, out: Path) -> Path:
    with av.open(str(path)) as reader, av.open(str(out), "w", format="mpegts") as writer:
        stream = reader.streams[0]
        track = writer.add_stream_from_template(stream, opaque=True)
        for packet in reader.demux(stream):
            if packet.size:
                packet.stream = track
                writer.mux(packet)
    return out


@pytest.mark.parametrize(
    ("video", "codec", "container"),
    [("cuts", "aac", "mp4"), ("hevc", "aac", "mp4"), ("av1", "aac", "mp4"), ("vfr", "flac", "mp4")],
)
def test_each_track_keeps_its_frames_and_times(
    footage: Callable[[str], Path], tmp_path: Path, video: str, codec: str, container: str
) -> None:
    suffix = {"aac": "m4a", "flac": "flac"}[codec]
    audio = sound(tmp_path / f"sound.{suffix}", codec, 1.5)
    out = tmp_path / "out"
    join(footage(video), audio, out)
    assert decoded(out, "video") == decoded(footage(video), "video")
    assert decoded(out, "audio") == decoded(audio, "audio")
    with open_video(out) as joined:
        assert container in joined.format.name
        assert len(joined.streams) == 2


def test_two_webm_files_become_matroska_and_keep_the_length_of_the_sound(
    footage: Callable[[str], Path], tmp_path: Path
) -> None:
    assert footage("vp9").suffix == ".webm"
    audio = sound(tmp_path / "sound.webm", "libopus", 1.5)
    join(footage("vp9"), audio, tmp_path / "out")
    assert decoded(tmp_path / "out", "video") == decoded(footage("vp9"), "video")
    assert decoded(tmp_path / "out", "audio") == decoded(audio, "audio")
    with open_video(tmp_path / "out") as joined:
        assert "matroska" in joined.format.name


def test_opus_beside_h264_goes_into_mp4(footage: Callable[[str], Path], tmp_path: Path) -> None:
    audio = sound(tmp_path / "sound.webm", "libopus", 1.5)
    join(footage("cuts"), audio, tmp_path / "out")
    assert decoded(tmp_path / "out", "video") == decoded(footage("cuts"), "video")
    # All but the edges, where MP4 and WebM round the codec's own delay differently.
    assert decoded(tmp_path / "out", "audio")[1:-1] == decoded(audio, "audio")[1:-1]


def test_tracks_of_unequal_length_stay_so(footage: Callable[[str], Path], tmp_path: Path) -> None:
    short = sound(tmp_path / "short.m4a", "aac", 0.5)
    join(footage("cuts"), short, tmp_path / "a")
    assert decoded(tmp_path / "a", "video") == decoded(footage("cuts"), "video")
    assert decoded(tmp_path / "a", "audio") == decoded(short, "audio")
    long = sound(tmp_path / "long.m4a", "aac", 30)  # the pictures last 9.6 s
    join(footage("cuts"), long, tmp_path / "b")
    assert decoded(tmp_path / "b", "video") == decoded(footage("cuts"), "video")
    assert decoded(tmp_path / "b", "audio") == decoded(long, "audio")


def test_sound_that_starts_late_still_does(footage: Callable[[str], Path], tmp_path: Path) -> None:
    late = sound(tmp_path / "late.m4a", "aac", 1, begin=0.5)
    join(footage("cuts"), late, tmp_path / "out")
    ours, theirs = decoded(tmp_path / "out", "audio"), decoded(late, "audio")
    assert [samples for _, samples in ours] == [samples for _, samples in theirs]
    # An edit list counts a late start in ticks of the pictures' clock, here 1/12288 s.
    for (time, _), (right, _) in zip(ours, theirs, strict=True):
        assert abs(time - right) <= Fraction(1, 12288)
    assert theirs[0][0] == pytest.approx(0.5, abs=0.03)  # AAC's own delay


def test_transport_streams_are_joined(footage: Callable[[str], Path], tmp_path: Path) -> None:
    video = as_transport_stream(footage("cuts"), tmp_path / "v.ts")
    audio = as_transport_stream(sound(tmp_path / "s.m4a", "aac", 2), tmp_path / "s.ts")
    join(video, audio, tmp_path / "out")
    assert decoded(tmp_path / "out", "video") == decoded(video, "video")
    assert decoded(tmp_path / "out", "audio") == decoded(audio, "audio")


def test_geometry_and_colour_stay(footage: Callable[[str], Path], tmp_path: Path) -> None:
    audio = sound(tmp_path / "sound.m4a", "aac", 1)
    for name in ("rotated", "sar", "hdr_pq"):
        join(footage(name), audio, tmp_path / name)
        ours, theirs = (
            probe(path, max_pixels=10**8, max_duration=3600)
            for path in (tmp_path / name, footage(name))
        )
        for field in ("width", "height", "rotation", "sar", "color_transfer", "fps"):
            assert getattr(ours, field) == getattr(theirs, field), (name, field)


def test_what_has_no_such_track_is_refused(footage: Callable[[str], Path], tmp_path: Path) -> None:
    audio = sound(tmp_path / "sound.m4a", "aac", 0.5)
    with pytest.raises(UnsupportedMediaError, match="no audio stream"):
        join(footage("cuts"), footage("cuts"), tmp_path / "out")
    with pytest.raises(UnsupportedMediaError, match="no video stream"):
        join(audio, audio, tmp_path / "out")
    page = tmp_path / "page.mp4"
    page.write_text("<html>no video here</html>" * 100)
    with pytest.raises((RefusedMediaError, DecodeError)):
        join(page, audio, tmp_path / "out")
