import pytest

from vidcurate.media.cut import cut_clip
from vidcurate.media.decode import Decoder
from vidcurate.media.packet_scan import PacketScan
from vidcurate.media.probe import probe as probe_within


def probe(path):
    return probe_within(path, max_pixels=10**8, max_duration=3600)


def facts(shot):
    return (shot.index, shot.pts, shot.end_pts, shot.time, shot.previous, shot.bytes_before)


@pytest.mark.parametrize("name", ["cuts", "vfr", "dup_cadence", "odd_size"])
@pytest.mark.parametrize("part", [(None, None), (0.5, 1.25)])
def test_it_tells_of_the_frames_what_decoding_tells(footage, name, part):
    info = probe(footage(name))
    with Decoder(info) as decoder, PacketScan(info) as scan:
        decoded = list(decoder.frames())
        start, end = (0.0, float("inf")) if part == (None, None) else part
        wanted = [d for d in decoded if start <= d.time < end]
        scanned = list(scan.shots(*part))
    first = wanted[0].index
    assert [facts(s)[1:] for s in scanned[:-1]] == [facts(d)[1:] for d in wanted[:-1]]
    assert [s.index + first for s in scanned] == [d.index for d in wanted]
    assert scanned[-1].end_pts == wanted[-1].end_pts
    assert all(s.frame is None for s in scanned)


def test_what_an_edit_list_hides_is_no_frame(footage, tmp_path):
    source = probe(footage("cuts"))
    with Decoder(source) as decoder:
        frames = list(decoder.frames(0.4, 1.2))  # not from a key frame
    clip = tmp_path / "clip.mp4"
    cut_clip(source, frames[0].pts, frames[-1].end_pts, len(frames), clip, audio=False)
    info = probe(clip)
    with Decoder(info) as decoder:
        decoded = [(d.pts, d.end_pts) for d in decoder.frames()]
    assert len(decoded) == len(frames)
    assert [(s.pts, s.end_pts) for s in PacketScan(info).shots()] == decoded
