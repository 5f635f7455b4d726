"""A clip's sound from its bytes, against that of the source."""

from __future__ import annotations

import av
import numpy as np
import pytest

from vidcurate.errors import RefusedMediaError
from vidcurate.media.audio import read_audio
from vidcurate.media.clip_sound import read_sound
from vidcurate.media.cut import cut_clip
from vidcurate.media.decode import packet_times

RATE = 16000


def clicks(samples, start=0.0):
    """Seconds at which a loud click begins."""
    loud = np.flatnonzero(np.abs(samples) > 0.3) / RATE
    return loud[np.diff(loud, prepend=-1.0) > 0.1] + start


@pytest.fixture
def clip(footage, look, tmp_path):
    """Frames 30 to 150 of cuts_sound, 24 a second: the clicks at 2.5 and 5.0 s are in it."""
    info = look(footage("cuts_sound"))
    pts = packet_times(info)
    cut = cut_clip(info, pts[30], pts[150], 120, tmp_path / "x.mp4", audio=True)
    assert cut.has_audio
    assert cut.preroll_frames == 30
    return cut.path


def test_time_zero_is_the_first_shown_frame(clip):
    samples = read_sound(clip.read_bytes(), 0.0, 5.0, RATE)
    assert samples.dtype == np.float32
    assert len(samples) == 5 * RATE
    assert clicks(samples) == pytest.approx([2.5 - 30 / 24, 5.0 - 30 / 24], abs=0.003)


def test_a_part_is_that_part_of_the_source(clip, footage, look):
    source = read_audio(look(footage("cuts_sound")), 30 / 24 + 1.0, 30 / 24 + 4.0, RATE)
    part = read_sound(clip.read_bytes(), 1.0, 3.0, RATE)
    assert clicks(part) == pytest.approx(clicks(source), abs=0.003)
    assert len(clicks(part)) == 2


@pytest.mark.parametrize("seconds", [0.1234, 1 / 3, 2.0])
def test_as_many_samples_as_asked_for(clip, seconds):
    assert len(read_sound(clip.read_bytes(), 0.7, seconds, 44100)) == round(seconds * 44100)


def test_a_sound_file_counts_its_own_time(clip, tmp_path):
    path = tmp_path / "x.m4a"
    with av.open(str(clip)) as source, av.open(str(path), "w", format="ipod") as out:
        track = out.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = track
                out.mux(packet)
    beside = read_sound(path.read_bytes(), 0.0, 5.0, RATE)
    late = read_sound(path.read_bytes(), 3.0, 1.5, RATE)
    assert clicks(beside) == pytest.approx([1.25, 3.75], abs=0.03)
    assert clicks(late, 3.0) == pytest.approx(clicks(beside)[1:], abs=0.003)


def test_of_a_container_whose_clock_begins_late(clip, tmp_path):
    path = tmp_path / "x.ts"
    with av.open(str(clip)) as source, av.open(str(path), "w") as out:
        tracks = {s.index: out.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is not None and packet.pts >= 0:
                packet.stream = tracks[packet.stream.index]
                packet.pts += round(7 / packet.time_base)
                packet.dts += round(7 / packet.time_base)
                out.mux(packet)
    with av.open(str(path)) as container:
        assert container.start_time > 5 * av.time_base
    # It begins at the first frame that can be decoded: the key frame at 48 of the source.
    samples = read_sound(path.read_bytes(), 0.0, 4.0, RATE)
    assert len(clicks(samples)) == 2
    assert np.diff(clicks(samples)) == pytest.approx([2.5], abs=0.003)


def test_no_sound_and_no_file(footage):
    assert read_sound(footage("cuts").read_bytes(), 0.0, 1.0, RATE) is None
    with pytest.raises(RefusedMediaError, match="one: a playlist"):
        read_sound(b"#EXTM3U\n", 0.0, 1.0, RATE, name="one")
