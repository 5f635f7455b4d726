from dataclasses import replace

import av
import pytest

from vidcurate import Frames
from vidcurate.operators.score.content_hash import content_hash

REQUEST = content_hash().request()


@pytest.fixture
def pictures(texture):
    big = texture(180, 320 + 60)
    return [big[:, 2 * i : 2 * i + 320] for i in range(25)]


def copy_packets(source, target):
    with av.open(source) as given, av.open(target, "w") as made:
        old = given.streams.video[0]
        new = made.add_stream_from_template(old)
        for packet in given.demux(old):
            if packet.dts is not None:
                packet.stream = new
                made.mux(packet)


def test_request():
    assert Frames(count=4, short_side="native", color="gray") == REQUEST


def test_same_stream_in_another_container_has_the_same_hash(encode, decode, pictures, tmp_path):
    path = encode(pictures)
    other = tmp_path / "renamed.mkv"
    copy_packets(path, other)
    first = content_hash().score(decode(path, REQUEST))
    assert content_hash().score(decode(other, REQUEST)) == first
    assert len(first) == 32
    assert int(first, 16) > 0


def test_reencode_has_another_hash(encode, decode, pictures):
    first = content_hash().score(decode(encode(pictures), REQUEST))
    again = encode(pictures, name="again.mp4", options={"crf": "35"})
    assert content_hash().score(decode(again, REQUEST)) != first


def test_one_luma_step_in_one_pixel_changes_it(make_clip, pictures):
    clip = make_clip(pictures[:4])
    changed = clip.frames.pixels.copy()
    changed[3, 100, 100] ^= 1
    assert content_hash().score(make_clip(changed)) != content_hash().score(clip)


def test_size_and_length_enter(make_clip, pictures):
    clip = make_clip(pictures[:4])
    turned = make_clip(clip.frames.pixels.reshape(4, 320, 180))
    hashes = {content_hash().score(c) for c in (clip, turned, replace(clip, n_frames=9))}
    assert len(hashes) == 3


def test_strided_pixels_hash_as_their_values(make_clip, pictures):
    clip = make_clip(pictures[:4])
    double = clip.frames.pixels.repeat(2, axis=2)[:, :, ::2]
    strided = replace(clip, frames=replace(clip.frames, pixels=double))
    assert content_hash().score(strided) == content_hash().score(clip)
