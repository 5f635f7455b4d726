"""Small pictures of frames: right colours, right way up, right shape."""

from __future__ import annotations

import re
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from vidcurate.errors import UnsupportedMediaError
from vidcurate.media.convert import Converter, target_size
from vidcurate.media.decode import Decoder
from vidcurate.media.video import Box

from .conftest import gray_frames

BARS = np.array(
    [
        [191, 191, 191],
        [191, 191, 0],
        [0, 191, 191],
        [0, 191, 0],
        [191, 0, 191],
        [191, 0, 0],
        [0, 0, 191],
        [255, 255, 255],
        [128, 128, 128],
        [0, 0, 0],
        [220, 120, 60],
        [20, 90, 200],
    ],
    np.float64,
)
# H.273: luma weights of red and blue, written out here a second time.
WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
WIDTH, HEIGHT, BAR = 192, 32, 16


def codes(rgb: np.ndarray, matrix: int, full: bool, bits: int) -> np.ndarray:
    """Y, Cb, Cr codes of RGB in 0..255."""
    red, blue = WEIGHTS[matrix]
    r, g, b = rgb.T / 255
    y = red * r + (1 - red - blue) * g + blue * b
    cb, cr = (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
    top = 2**bits - 1
    unit = 2 ** (bits - 8)
    if full:
        yuv = np.stack([y * top, cb * top + 128 * unit, cr * top + 128 * unit], 1)
    else:
        yuv = np.stack([(16 + 219 * y), (128 + 224 * cb), (128 + 224 * cr)], 1) * unit
    return np.clip(np.round(yuv), 0, top).astype(np.uint16)


def bars_frame(pix_fmt: str, matrix: int, full: bool) -> av.VideoFrame:
    """Vertical bars in the pixel format, its planes filled by hand."""
    frame = av.VideoFrame(WIDTH, HEIGHT, pix_fmt)
    bits = frame.format.components[0].bits
    yuv = codes(BARS, matrix, full, bits)
    if pix_fmt.startswith("p0"):
        yuv = yuv << (16 - bits)
    kind = np.dtype(np.uint8 if bits == 8 else ">u2" if pix_fmt.endswith("be") else "<u2")
    for i, plane in enumerate(frame.planes):
        channel = yuv[:, i] if i < 3 else np.full(len(BARS), 7)
        if len(frame.planes) == 2 and i == 1:  # two planes: Cb and Cr by turns
            order = (2, 1) if pix_fmt == "nv21" else (1, 2)
            row = np.repeat(yuv[:, order], plane.width // len(BARS), 0).reshape(-1)
        else:
            row = np.repeat(channel, plane.width // len(BARS))
        line = np.zeros(plane.line_size // kind.itemsize, kind)
        line[: len(row)] = row
        plane.update(np.tile(line, plane.height).tobytes())
    frame.colorspace, frame.color_range = matrix, 2 if full else 1
    return frame


def centres(picture: np.ndarray, bar: int = BAR) -> np.ndarray:
    """The colour in the middle of each bar."""
    return picture[picture.shape[0] // 2, bar // 2 :: bar].astype(int)


@pytest.fixture
def shot(look):
    """The first frame of a file with its converter."""

    def first(path, hdr="tonemap"):
        info = look(path)
        with Decoder(info) as decoder:
            return next(iter(decoder.frames())).frame, Converter(info, hdr=hdr)

    return first


@pytest.fixture
def converter(make, look):
    """A converter for frames that were made by hand, of WIDTH x HEIGHT."""
    info = look(make("c.mkv", gray_frames(1, WIDTH, HEIGHT), "ffv1"))
    return Converter(info, hdr="tonemap")


@pytest.mark.parametrize("full", [False, True], ids=["tv", "pc"])
@pytest.mark.parametrize("matrix", [1, 5, 6, 9])
@pytest.mark.parametrize(
    "pix_fmt",
    [
        *("yuv420p", "yuv422p", "yuv440p", "yuv444p", "yuv411p", "yuv410p", "yuva420p"),
        *("nv12", "nv21", "nv16", "p010le", "p016le", "yuv420p9le", "yuv420p10le"),
        *("yuv422p12le", "yuv444p14le", "yuv444p16le", "yuva444p10le", "yuv444p10be"),
    ],
)
def test_colour_bars(pix_fmt, matrix, full, converter):
    frame = bars_frame(pix_fmt, matrix, full)
    rgb = converter.rgb(frame, WIDTH, HEIGHT)
    assert np.abs(centres(rgb) - BARS).max() <= 2
    small = converter.rgb(frame, WIDTH // 2, HEIGHT // 2)
    assert np.abs(centres(small, BAR // 2) - BARS).max() <= 2
    quick = converter.rgb(frame, WIDTH // 4, HEIGHT // 4, quick=True)
    assert np.abs(centres(quick, BAR // 4) - BARS).max() <= 2
    gray = converter.gray(frame, WIDTH, HEIGHT)
    red, blue = WEIGHTS[matrix]
    luma = BARS @ [red, 1 - red - blue, blue]
    assert np.abs(centres(gray) - luma).max() <= 1


@pytest.mark.parametrize("full", [False, True], ids=["tv", "pc"])
@pytest.mark.parametrize("pix_fmt", ["yuyv422", "uyvy422"])
def test_packed_yuv(pix_fmt, full, converter):
    planar = bars_frame("yuv422p", 1, full)
    y, u, v = (
        np.frombuffer(p, np.uint8).reshape(p.height, p.line_size)[:, : p.width]
        for p in planar.planes
    )
    packed = np.empty((HEIGHT, WIDTH, 2), np.uint8)
    luma, chroma = (0, 1) if pix_fmt == "yuyv422" else (1, 0)
    packed[..., luma], packed[:, ::2, chroma], packed[:, 1::2, chroma] = y, u, v
    frame = av.VideoFrame(WIDTH, HEIGHT, pix_fmt)
    lines = np.zeros((HEIGHT, frame.planes[0].line_size), np.uint8)
    lines[:, : 2 * WIDTH] = packed.reshape(HEIGHT, -1)
    frame.planes[0].update(lines.tobytes())
    frame.colorspace, frame.color_range = 1, 2 if full else 1
    assert np.abs(centres(converter.rgb(frame, WIDTH, HEIGHT)) - BARS).max() <= 2
    luma = BARS @ [0.2126, 0.7152, 0.0722]
    assert np.abs(centres(converter.gray(frame, WIDTH, HEIGHT)) - luma).max() <= 1


@pytest.mark.parametrize("full", [False, True], ids=["tv", "pc"])
@pytest.mark.parametrize("matrix", [1, 6, 9])
@pytest.mark.parametrize(
    ("codec", "pix_fmt", "name"),
    [
        ("libx264", "yuv420p", "a.mp4"),
        ("libx264", "yuv444p10le", "a.mp4"),
        ("libx265", "yuv420p10le", "a.mp4"),
        ("ffv1", "yuv422p", "a.mkv"),
    ],
)
def test_tags_of_a_file_are_honoured(codec, pix_fmt, name, matrix, full, make, shot):
    tags = {"colorspace": matrix, "color_range": 2 if full else 1}
    lossless = {
        "libx264": {"qp": "0"},
        "libx265": {"x265-params": "log-level=none:lossless=1"},
        "ffv1": {},
    }
    path = make(
        name,
        [bars_frame(pix_fmt, matrix, full)],
        codec,
        pix_fmt=pix_fmt,
        options=lossless[codec],
        tags=tags,
    )
    frame, converter = shot(path)
    assert np.abs(centres(converter.rgb(frame, WIDTH, HEIGHT)) - BARS).max() <= 2


def test_untagged_small_video_is_601_and_large_is_709(make, shot):
    small, converter = shot(make("a.mkv", [bars_frame("yuv444p", 6, False)], "ffv1"))
    small.colorspace = 2
    assert np.abs(centres(converter.rgb(small, WIDTH, HEIGHT)) - BARS).max() <= 2
    y, u, v = np.repeat(codes(BARS[-2:-1], 1, False, 8)[..., None], 1280, 2)[0]
    planes = np.stack([np.tile(p, (720, 1)) for p in (y, u, v)]).astype(np.uint8)
    large = av.VideoFrame.from_ndarray(planes, "yuv444p", channel_last=False)
    large.colorspace = 2
    assert np.abs(converter.rgb(large, 4, 4).astype(int) - BARS[-2]).max() <= 2


@pytest.mark.parametrize("pix_fmt", ["rgb24", "bgr24", "gbrp", "bgra", "gbrp10le", "rgb48le"])
def test_rgb_formats(pix_fmt, converter):
    picture = np.tile(np.repeat(BARS, BAR, 0)[None], (HEIGHT, 1, 1)).astype(np.uint8)
    frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format=pix_fmt)
    assert np.abs(centres(converter.rgb(frame, WIDTH, HEIGHT)) - BARS).max() <= 1
    luma = BARS @ [0.2126, 0.7152, 0.0722]
    assert np.abs(centres(converter.gray(frame, WIDTH, HEIGHT)) - luma).max() <= 1


@pytest.mark.parametrize("pix_fmt", ["gray", "gray10le", "gray16le", "ya8"])
def test_gray_formats_are_full_range(pix_fmt, converter):
    ramp = np.tile(np.arange(WIDTH, dtype=np.uint8), (HEIGHT, 1))
    frame = av.VideoFrame.from_ndarray(ramp, "gray").reformat(format=pix_fmt)
    gray = converter.gray(frame, WIDTH, HEIGHT)
    assert np.abs(gray.astype(int) - ramp).max() <= 1
    rgb = converter.rgb(frame, WIDTH, HEIGHT)
    assert np.abs(rgb.astype(int) - ramp[..., None]).max() <= 1


def test_old_codecs_in_avi(make, shot):
    picture = np.tile(np.repeat(BARS, BAR, 0)[None], (HEIGHT, 1, 1)).astype(np.uint8)
    for codec, pix_fmt in (("rawvideo", "bgr24"), ("huffyuv", "rgb24"), ("mjpeg", "yuvj444p")):
        options = {"qmin": "1", "qmax": "1"} if codec == "mjpeg" else {}
        frame, converter = shot(make("a.avi", [picture], codec, pix_fmt=pix_fmt, options=options))
        assert np.abs(centres(converter.rgb(frame, WIDTH, HEIGHT)) - BARS).max() <= 4


def quadrants(width: int = 64, height: int = 48) -> np.ndarray:
    """Gray levels 50, 100 above, 150, 200 below."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = 50
    picture[: height // 2, width // 2 :] = 100
    picture[height // 2 :, : width // 2] = 150
    picture[height // 2 :, width // 2 :] = 200
    return picture


def corners(picture: np.ndarray) -> list[int]:
    """Top left, top right, bottom left, bottom right, to the nearest ten."""
    h, w = picture.shape[:2]
    at = [(h // 4, w // 4), (h // 4, w * 3 // 4), (h * 3 // 4, w // 4), (h * 3 // 4, w * 3 // 4)]
    return [round(float(picture[p].mean()), -1) for p in at]


ONE = 65536
MATRICES = {
    0: [ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30],
    90: [0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30],
    180: [-ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30],
    270: [0, -ONE, 0, ONE, 0, 0, 0, 0, 1 << 30],
}


@pytest.mark.parametrize("rotation", MATRICES)
def test_rotation(rotation, make, shot):
    frame, converter = shot(make("a.mp4", [quadrants()], matrix=MATRICES[rotation]))
    info = converter.info
    expected = {
        0: [50, 100, 150, 200],
        90: [150, 50, 200, 100],
        180: [200, 150, 100, 50],
        270: [100, 200, 50, 150],
    }[rotation]
    for picture in (
        converter.gray(frame, info.width, info.height),
        converter.rgb(frame, info.width // 2, info.height // 2),
    ):
        assert corners(picture) == expected
    assert converter.gray(frame, info.width, info.height).shape == (info.height, info.width)


@pytest.mark.parametrize("rotation", MATRICES)
def test_crop_is_in_display_pixels(rotation, make, shot):
    frame, converter = shot(make("a.mp4", [quadrants()], matrix=MATRICES[rotation]))
    w, h = converter.info.width, converter.info.height
    whole = converter.gray(frame, w, h)
    for box in (Box(0, 0, w // 2, h // 2), Box(w // 2, 0, w // 2, h // 2), Box(7, 3, 20, 30)):
        part = converter.gray(frame, box.width, box.height, box)
        wanted = whole[box.y : box.y + box.height, box.x : box.x + box.width]
        np.testing.assert_array_equal(part, wanted)
        color = converter.rgb(frame, box.width, box.height, box)
        assert color.shape == (box.height, box.width, 3)
        assert np.abs(color[..., 1].astype(int) - wanted).max() <= 3


def test_sar_stretches(make, shot):
    frame, converter = shot(make("a.mp4", [quadrants(64, 48)], sar=Fraction(2)))
    info = converter.info
    assert (info.width, info.height) == (128, 48)
    assert corners(converter.gray(frame, 128, 48)) == [50, 100, 150, 200]
    part = converter.gray(frame, 64, 24, Box(64, 24, 64, 24))
    assert np.abs(part.astype(int) - 200).max() <= 1


@pytest.mark.parametrize("size", [(63, 47), (1, 1), (65, 33)])
def test_odd_sizes(size, make, shot):
    width, height = size
    picture = np.full((height, width, 3), 120, np.uint8)
    frame, converter = shot(make("a.mkv", [picture], "ffv1"))
    for w, h in (size, target_size(width, height, 16)):
        assert converter.gray(frame, w, h).shape == (h, w)
        rgb = converter.rgb(frame, w, h)
        assert rgb.shape == (h, w, 3)
        assert np.abs(rgb.astype(int) - 120).max() <= 2


def test_quick_pictures_are_samples_of_the_same_picture(bbb, look):
    """No shift, no other colours: what differs is fine detail."""
    info = look(bbb)
    converter = Converter(info, hdr="tonemap")
    with Decoder(info) as decoder:
        frame = next(iter(decoder.frames())).frame
    for convert in (converter.gray, converter.rgb):
        even = convert(frame, 256, 144).astype(np.float32)
        quick = convert(frame, 256, 144, quick=True).astype(np.float32)
        assert np.abs(quick - even).mean() < 7  # a meadow: nothing but fine detail
        assert abs(quick.mean() - even.mean()) < 0.5
        window = cv2.createHanningWindow((256, 144), cv2.CV_32F)
        planes = (p if p.ndim == 2 else np.ascontiguousarray(p[..., 1]) for p in (even, quick))
        (x, y), _ = cv2.phaseCorrelate(*planes, window)
        assert max(abs(x), abs(y)) < 0.1
    part = converter.rgb(frame, 75, 101, Box(100, 50, 301, 405), quick=True)
    assert part.shape == (101, 75, 3)
    whole = converter.rgb(frame, info.width, info.height)
    same_size = converter.rgb(frame, info.width, info.height, quick=True)
    assert np.abs(whole.astype(int) - same_size).mean() < 1
    assert converter.gray(frame, info.width, info.height, quick=True).base is None


def test_interlaced_pictures_use_one_field(make, shot):
    """Two moments woven into one frame: only the top field's is seen."""
    woven = np.empty((48, 64, 3), np.uint8)
    woven[::2], woven[1::2] = 60, 180
    options = {"flags": "+ildct+ilme", "x264-params": "tff=1:qp=1"}
    frame, converter = shot(make("a.mp4", [woven] * 5, options=options))
    assert frame.interlaced_frame
    for size in ((64, 48), (32, 24)):
        assert np.abs(converter.gray(frame, *size).astype(int) - 60).max() <= 3
        assert np.abs(converter.rgb(frame, *size).astype(int) - 60).max() <= 6


def test_results_outlive_the_frame(make, look):
    info = look(make("a.mkv", gray_frames(30), "ffv1", pix_fmt="yuv444p", tags={"color_range": 2}))
    converter = Converter(info, hdr="tonemap")
    with Decoder(info) as decoder:
        kept = [converter.gray(s.frame, 64, 48) for s in decoder.frames()]
    assert all(k.base is None and k.flags.writeable for k in kept)
    assert np.array_equal(np.diff([int(k[0, 0]) for k in kept]), [4] * 29)


def test_scaling_is_by_area(make, shot):
    picture = np.random.default_rng(0).integers(0, 255, (48, 64, 1), np.uint8).repeat(3, 2)
    frame, converter = shot(make("a.mkv", [picture], "ffv1", tags={"color_range": 2}))
    full = converter.gray(frame, 64, 48)
    means = cv2.resize(full.astype(np.float32), (16, 12), interpolation=cv2.INTER_AREA)
    assert np.abs(converter.gray(frame, 16, 12) - means).max() <= 1.5


def pq(nits: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084: light in cd/m2 to signal."""
    y = (np.asarray(nits) / 10000) ** (2610 / 16384)
    c1, c2, c3 = 3424 / 4096, 2413 / 128, 2392 / 128
    return ((c1 + c2 * y) / (1 + c3 * y)) ** (2523 / 32)


def hlg(scene: np.ndarray) -> np.ndarray:
    """BT.2100 HLG OETF."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.asarray(scene, np.float64)
    return np.where(
        scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c
    )


def hdr_frame(signal: np.ndarray) -> av.VideoFrame:
    """A row of 16 pixels of grey for each signal level (0..1), 10 bit limited range."""
    y = np.round((signal * 219 + 16) * 4).astype(np.uint16)
    row = np.repeat(y, 16)
    frame = av.VideoFrame(len(row), 32, "yuv420p10le")
    for i, plane in enumerate(frame.planes):
        line = np.full(plane.line_size // 2, 512, np.uint16)
        if i == 0:
            line[: len(row)] = row
        plane.update(np.tile(line, plane.height).tobytes())
    return frame


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx265", {"x265-params": "log-level=none:lossless=1"}),
        ("libsvtav1", {"crf": "10", "preset": "10"}),
        ("ffv1", {}),
    ],
)
@pytest.mark.parametrize("transfer", [16, 18], ids=["pq", "hlg"])
def test_hdr_is_tone_mapped(codec, options, transfer, make, shot):
    nits = np.array([0, 1, 5, 20, 36.5, 60, 94, 150, 203, 300, 500, 700, 900, 1000], np.float64)
    signal = pq(nits) if transfer == 16 else hlg((nits / 1000) ** (1 / 1.2))
    tags = {"colorspace": 9, "color_primaries": 9, "color_trc": transfer, "color_range": 1}
    name = "a.mkv" if codec == "ffv1" else "a.mp4"
    path = make(name, [hdr_frame(signal)], codec, pix_fmt="yuv420p10le", options=options, tags=tags)
    frame, converter = shot(path)
    size = (converter.info.width, converter.info.height)
    rgb = centres(converter.rgb(frame, *size))
    gray = centres(converter.gray(frame, *size))
    assert np.ptp(rgb, axis=1).max() <= 6  # grey stays grey
    assert np.abs(rgb.mean(axis=1) - gray).max() <= 3
    assert np.all(np.diff(gray) >= 0)
    assert np.all(np.diff(gray[:12]) > 0)  # nearer to the peak, 8 bits tell no more apart
    assert gray[0] <= 1
    assert gray[-1] >= 250
    # Below the knee light is kept: 18 % grey of a 203 cd/m2 white is 18 % grey of SDR's.
    assert gray[4] == pytest.approx(255 * (36.5 / 203) ** (1 / 2.4), abs=4)
    assert 200 < gray[8] < 235  # HDR's reference white leaves room for highlights


def test_hdr_can_be_refused(make, shot):
    path = make(
        "a.mkv",
        [hdr_frame(np.linspace(0, 1, 4))],
        "ffv1",
        pix_fmt="yuv420p10le",
        tags={"color_trc": 16},
    )
    frame, converter = shot(path, hdr="refuse")
    for convert in (converter.gray, converter.rgb):
        with pytest.raises(UnsupportedMediaError, match="hdr: refuse"):
            convert(frame, 16, 16)


def test_unhandled_matrix_is_refused(make, shot):
    frame, converter = shot(make("a.mkv", gray_frames(1), "ffv1"))
    frame.colorspace = 14
    with pytest.raises(UnsupportedMediaError, match=re.escape("(code point 14)")):
        converter.rgb(frame, 16, 16)


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((1920, 1080), 256, (455, 256)),
        ((1080, 1920), 256, (256, 455)),
        ((1280, 720), 144, (256, 144)),
        ((320, 180), 256, (320, 180)),
        ((320, 181), "native", (320, 181)),
        ((10000, 20), 16, (8000, 16)),
        ((3, 3), 16, (3, 3)),
    ],
)
def test_target_size(size, short_side, expected):
    assert target_size(*size, short_side) == expected
