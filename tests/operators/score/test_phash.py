import cv2
import numpy as np
import pytest

from vidcurate import Frames
from vidcurate.operators.score.phash import phash

REQUEST = phash().request()


def distance(a, b):
    return [(int(x, 16) ^ int(y, 16)).bit_count() for x, y in zip(a[""], b[""], strict=True)]


@pytest.fixture
def pictures(texture):
    return [texture(360, 640, seed=i // 8, steep=1.5) for i in range(24)]  # 3 pictures


def test_request():
    assert Frames(count=3, short_side=128, color="gray") == REQUEST


def test_bits_of_a_single_wave(make_clip):
    # a horizontal cosine of frequency 3 has one coefficient only: bit 2 of the first row
    wave = np.cos(np.pi * 3 * (np.arange(128) + 0.5) / 128)
    other = np.cos(np.pi * (np.arange(128) + 0.5) / 128)[:, None]
    pictures = 128 + 100 * wave * other
    (first,) = phash().score(make_clip([pictures]))[""]
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(first), np.uint8))
    assert len(first) == 16
    assert bits[2] == 1  # row: vertical frequency 1, column: horizontal frequency 3


def test_about_half_of_the_bits_are_set(make_clip, pictures):
    for text in phash().score(make_clip(pictures[::8]))[""]:
        assert int(text, 16).bit_count() == 32  # the median splits them


@pytest.mark.parametrize("crf", ["23", "35"])
def test_small_distance_after_a_reencode(encode, decode, pictures, crf):
    first = phash().score(decode(encode(pictures, options={"crf": "10"}), REQUEST))
    again = encode(pictures, name="again.mp4", options={"crf": crf})
    assert max(distance(first, phash().score(decode(again, REQUEST)))) <= 6


def test_small_distance_after_scaling_and_brightening(encode, decode, pictures):
    first = phash().score(decode(encode(pictures), REQUEST))
    small = [cv2.resize(p, (320, 180), interpolation=cv2.INTER_AREA) for p in pictures]
    light = [np.clip(p * 0.8 + 40, 0, 255).astype(np.uint8) for p in small]
    path = encode(light, name="small.mp4")
    assert max(distance(first, phash().score(decode(path, REQUEST)))) <= 8


def test_large_distance_to_other_content(make_clip, texture):
    one, two = ([texture(128, 228, seed=i + s) for i in range(3)] for s in (0, 10))
    apart = distance(phash().score(make_clip(one)), phash().score(make_clip(two)))
    assert min(apart) >= 18


def test_flat_frame_is_null_in_its_place(make_clip, texture):
    flat = np.full((128, 228), 16)
    first, second, third = phash().score(make_clip([flat, texture(128, 228), flat + 1]))[""]
    assert (first, third) == (None, None)
    assert len(second) == 16
    assert phash().score(make_clip([flat] * 3)) is None
