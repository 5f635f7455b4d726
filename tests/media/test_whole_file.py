"""Counts and rates of whole files: those of packets are those of decoding."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vidcurate.errors import DataError
from vidcurate.media import whole_file as subject
from vidcurate.media.cut import cut_clip
from vidcurate.media.decode import Decoder
from vidcurate.media.probe import probe as probe_within
from vidcurate.media.whole_file import WholeFile

LIMITS = {"max_pixels": 10**8, "max_duration": 3600.0}


def whole_file(path: Path) -> WholeFile:
    signs = subject.whole_file(path, **LIMITS)
    while True:
        try:
            assert next(signs) is None
        except StopIteration as end:
            return end.value


def probe(path: Path):
    return probe_within(path, **LIMITS)


def decoded(path: Path) -> list[int]:
    with Decoder(probe(path)) as decoder:
        return [d.pts for d in decoder.frames()]


def without_edits(path: Path) -> int:
    """Frames that a reader sees which ignores edit lists."""
    with av.open(str(path), options={"ignore_editlist": "1"}) as container:
        return sum(1 for _ in container.decode(video=0))


NAMES = "cuts_sound vfr dup_cadence interlaced rotated sar odd_size hevc vp9 av1 mpeg2 mpeg4 hdr_pq"


@pytest.mark.parametrize("name", NAMES.split())
def test_counted_as_decoded(footage, truth, name):
    path, known = footage(name), truth(name)
    found = whole_file(path)
    assert found.n_frames == len(decoded(path)) == known["frames"]
    assert (found.width, found.height) == (known["width"], known["height"])
    assert found.has_audio == (name == "cuts_sound")
    assert found.vfr == (name == "vfr")
    assert found.preroll_frames == 0
    if not found.vfr:
        assert Fraction(found.fps_num, found.fps_den) == Fraction(known["fps"])
        assert found.duration_s == pytest.approx(found.n_frames / Fraction(known["fps"]), abs=0.002)


def test_real_footage(bbb, bikes):
    found = whole_file(bbb)
    assert (found.n_frames, found.fps_num, found.has_audio) == (132, 25, True)
    assert whole_file(bikes).n_frames == len(decoded(bikes)) == 250


def test_vp8_has_packets_that_show_nothing(tmp_path):
    """A cleared bit 4 of a packet's first byte hides its frame (RFC 6386, 9.1)."""
    path, plain = tmp_path / "vp8.webm", tmp_path / "plain.webm"
    picture = np.random.default_rng(0).integers(0, 255, (48, 128, 3), np.uint8)
    with av.open(str(plain), "w") as out:
        track = out.add_stream("libvpx", rate=25, options={"deadline": "realtime"})
        track.width, track.height, track.pix_fmt = 64, 48, "yuv420p"
        for i in range(20):
            view = np.ascontiguousarray(picture[:, i : i + 64])
            out.mux(track.encode(av.VideoFrame.from_ndarray(view, "rgb24")))
        out.mux(track.encode())
    with av.open(str(plain)) as source, av.open(str(path), "w") as out:
        track = out.add_stream_from_template(source.streams.video[0])
        for i, packet in enumerate(p for p in source.demux(video=0) if p.size):
            data = bytearray(bytes(packet))
            if i in (7, 12):
                data[0] &= ~0x10
            hidden = av.Packet(bytes(data))
            hidden.pts, hidden.dts, hidden.time_base = packet.pts, packet.dts, packet.time_base
            hidden.is_keyframe, hidden.stream = packet.is_keyframe, track
            out.mux(hidden)
    assert whole_file(path).n_frames == len(decoded(path)) == 18


@pytest.mark.parametrize("name", ["cuts", "hevc", "cuts_gop48"])
def test_what_an_edit_list_hides(footage, tmp_path, name):
    """A copied clip: shown are the wanted frames, hidden those from the key frame on."""
    source = probe(footage(name))
    times = decoded(footage(name))
    clip = tmp_path / "clip.mp4"
    start, end = times[17], times[40]
    cut = cut_clip(source, start, end, 23, clip, audio=False)
    assert cut.copied
    found = whole_file(clip)
    assert found.n_frames == len(decoded(clip)) == 23
    assert found.preroll_frames == cut.preroll_frames > 0
    assert without_edits(clip) >= found.preroll_frames + found.n_frames
    assert (found.fps_num, found.fps_den, found.vfr) == (cut.fps_num, cut.fps_den, cut.vfr)
    assert found.duration_s == pytest.approx(cut.duration_s)


def test_a_hidden_group_of_pictures_counts(footage, tmp_path):
    """An edit that begins at a later key frame: FFmpeg passes over all packets before it."""
    path, clip = footage("cuts"), tmp_path / "clip.mp4"
    source, times = probe(path), decoded(footage("cuts"))
    cut_clip(source, times[0], times[60], 60, clip, audio=False)
    with av.open(str(path)) as container:
        keys = [p.pts for p in container.demux(video=0) if p.is_keyframe and p.pts is not None]
    data = bytearray(clip.read_bytes())
    place = data.index(b"elst") + 8
    assert int.from_bytes(data[place : place + 4], "big") == 1  # one edit
    skip = keys[1] - keys[0]
    length = int.from_bytes(data[place + 4 : place + 8], "big")
    begin = int.from_bytes(data[place + 8 : place + 12], "big")
    data[place + 4 : place + 8] = (length - skip).to_bytes(4, "big")
    data[place + 8 : place + 12] = (begin + skip).to_bytes(4, "big")
    clip.write_bytes(data)
    hidden = sum(t < keys[1] for t in times)
    found = whole_file(clip)
    assert hidden > 0
    assert (found.preroll_frames, found.n_frames) == (hidden, 60 - hidden)
    assert found.n_frames == len(decoded(clip))


def test_what_is_no_video(tmp_path):
    path = tmp_path / "x.mp4"
    path.write_bytes(b"no video at all" * 100)
    with pytest.raises(DataError, match="not a video file"):
        whole_file(path)
