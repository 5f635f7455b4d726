"""The files that `vidcurate ops new NAME` writes: an operator that works, and its test."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from vidcurate.errors import OperatorError
from vidcurate.operator import registry

_NAME = re.compile(r"[a-z][a-z0-9_]*")

_OPERATOR = '''\
"""An operator of my own. Try it: vidcurate ops test {name}.py --video SOME.mp4"""

import numpy as np

from vidcurate import FrameBatch, Frames, column, scorer


@scorer(
    "{name}",
    version="1",  # raise it when results change: finished runs then score again
    frames=Frames(count=4, short_side=256, color="rgb"),
    columns={{
        "mean": column(
            "float32", unit="colourfulness", range=(0, None), description="mean over the frames"
        ),
        "grey": column(
            "float32", unit="share of frames", range=(0, 1), description="frames without colour"
        ),
    }},
)
def {name}(frames: FrameBatch, *, limit: float = 3.0) -> dict[str, float]:
    """Colourfulness of the picture (Hasler and Suesstrunk 2003): 0 is grey, above 60 vivid.

    limit: frames below it count as grey.
    """
    # frames.pixels is (N, H, W, 3) uint8 RGB, frames.times (N,) seconds of source time.
    red, green, blue = np.moveaxis(frames.pixels.astype(np.float32), -1, 0)
    one, two = red - green, (red + green) / 2 - blue
    axes = (1, 2)
    spread = np.hypot(one.std(axis=axes), two.std(axis=axes))
    shift = np.hypot(one.mean(axis=axes), two.mean(axis=axes))
    values = spread + 0.3 * shift
    return {{"mean": float(values.mean()), "grey": float((values < limit).mean())}}
'''

_TEST = '''\
"""Run it with: python -m pytest test_{name}.py"""

import numpy as np
from {name} import {name}

from vidcurate.operator.testing import make_clip


def test_a_grey_picture_has_no_colour():
    clip = make_clip(np.full((4, 36, 64, 3), 90))
    assert {name}().score(clip) == {{"mean": 0.0, "grey": 1.0}}


def test_red_beside_blue_is_vivid():
    pixels = np.zeros((4, 36, 64, 3))
    pixels[:, :, :32, 0] = 255
    pixels[:, :, 32:, 2] = 255
    scores = {name}().score(make_clip(pixels))
    assert scores["mean"] > 60
    assert scores["grey"] == 0


def test_the_limit_is_a_parameter():
    pixels = np.zeros((4, 36, 64, 3))
    pixels[:2, :, :32, 0] = 255
    assert {name}(limit=1000.0).score(make_clip(pixels))["grey"] == 1
    assert {name}().score(make_clip(pixels))["grey"] == 0.5
'''


def write_template(name: str, folder: Path) -> tuple[Path, Path]:
    """Write NAME.py and test_NAME.py into the folder.

    Returns:
        the paths of both files.

    Raises:
        OperatorError: the name cannot be used or is taken, or a file is there already.
    """
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise OperatorError(
            f"{name!r} cannot name an operator: lower case letters, digits and _, "
            "beginning with a letter, no word of Python's"
        )
    if name in registry.names():
        raise OperatorError(f"the name {name!r} belongs to another operator; choose another")
    files = folder / f"{name}.py", folder / f"test_{name}.py"
    for file in files:
        if file.exists():
            raise OperatorError(f"{file} is there already; remove it, or choose another name")
    for file, text in zip(files, (_OPERATOR, _TEST), strict=True):
        try:
            file.write_text(text.format(name=name), encoding="utf-8")
        except OSError as error:
            raise OperatorError(f"cannot write {file}: {error.strerror}") from error
    return files
