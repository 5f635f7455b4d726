"""Real clips as the model saw them, and folders of videos with their captions."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from vidcurate.errors import RunDirectoryError, UserError
from vidcurate.media.frame_files import save_frames
from vidcurate.train.config import Data, Size
from vidcurate.train.evaluation.clips import RealClips, Video, VideoFolder
from vidcurate.train.evaluation.generating import Trained
from vidcurate.train.precache.derived import VERSION
from vidcurate.train.resize import Resize

Shards = Callable[..., Path]

SIZES = ((9, 32, 48), (5, 48, 48))


def real(data: Data, resize: Resize | None = None, **how: object) -> RealClips:
    return RealClips(data, resize, **{"samples": 99, "seed": 0, "workers": 0, **how})  # type: ignore[arg-type]


def data(folder: Path, **more: object) -> Data:
    return Data(shards=str(folder), **{"captions": "source", "drop_captions": 0.9, **more})  # type: ignore[arg-type]


def test_clips_are_those_of_val_resized_as_in_training(shapes: Shards) -> None:
    folder = shapes(24, SIZES, 0.5)
    clips = list(real(data(folder), Resize((1, 4, 4), short_side=24, frames=4)))
    train = list(real(data(folder, split="train"), None))
    assert 4 <= len(clips) < 24
    assert [c.name for c in clips] == [c.name for c in train]  # the split is val all the same
    assert {c.frames.shape for c in clips} == {(4, 24, 36, 3), (4, 24, 24, 3)}
    assert {c.frames.shape for c in train} == {(9, 32, 48, 3), (5, 48, 48, 3)}
    assert all(c.caption.startswith("a ") for c in clips)  # none is dropped
    # Every second frame of nine at 8 a second, and the first four of five.
    rates = {c.frames.shape[2]: round(c.fps, 6) for c in clips}
    assert rates == {36: 4.0, 24: 8.0}


def test_some_are_a_random_choice_by_the_seed(shapes: Shards) -> None:
    folder = shapes(24, SIZES, 0.5)
    every = real(data(folder))
    some = real(data(folder), samples=3)
    assert some.count == 3
    names = [c.name for c in every]
    assert [c.name for c in some] == names[:3]
    assert names != sorted(names)
    wide = [c.frames.shape[1] > 32 for c in every]
    assert sum(a != b for a, b in pairwise(wide)) > 2  # sizes are mixed, not one after another
    other = [c.name for c in real(data(folder), seed=1)]
    assert other != names
    assert sorted(other) == sorted(names)
    assert every.count == len(names)


def test_a_mix_and_an_empty_split_are_refused(shapes: Shards) -> None:
    with pytest.raises(UserError, match="one set are compared: name it by --shards"):
        real(Data(shards={"a": 1.0, "b": 2.0}))
    with pytest.raises(UserError, match="val"):
        real(data(shapes(4)))


def precached(folder: Path, **settings: object) -> Path:
    """What a trainer sees first of a precached set."""
    derived = {
        "version": VERSION,
        "fingerprint": "0" * 16,
        "settings": settings,
        "parent": {"digest": "d", "columns": "c"},
        "vae": {"name": "v", "channels": 4, "compression": [1, 8, 8], "causal": False},
        "text": None,
    }
    folder.mkdir(exist_ok=True)
    (folder / "index.json").write_text(json.dumps({"derived": derived}))
    return folder


def test_a_set_without_pixels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds what clips were encoded to"):
        real(data(precached(tmp_path)))


def test_what_was_trained_from_a_precached_set_has_that_set_s_sizes(
    shapes: Shards, tmp_path: Path
) -> None:
    """And the clips are those of the set that --shards names."""
    sizes = {"short_side": 24, "frames": 4, "patch": [1, 1, 1]}
    folder = precached(tmp_path / "set", resize=sizes, native={"short_side": 40, "frames": None})
    said = {
        "version": 1,
        "step": 2,
        "model": {"width": 32, "depth": 1, "heads": 2, "patch": [1, 4, 4]},
        "encode": {"vae": "v", "text": None, "compression": [1, 1, 1]},
        "averaged": False,
        "trained_on": data(folder).model_dump(mode="json"),
    }
    (tmp_path / "train.json").write_text(json.dumps(said))
    trained = Trained(tmp_path, averaged=True, vae=None, text_encoder=None)
    assert trained.vae == "v"
    assert trained.data.native == Size(short_side=40)
    shards = str(shapes(24, SIZES, 0.5))
    clips = list(real(trained.data, trained.resize, shards=shards))
    assert {c.frames.shape for c in clips} == {(4, 24, 36, 3), (4, 24, 24, 3)}


def test_packs_hold_what_the_training_s_did(tmp_path: Path) -> None:
    said = {
        "version": 1,
        "step": 2,
        "model": {"width": 32, "depth": 1, "heads": 2, "patch": [1, 2, 2]},
        "encode": {"vae": "v", "compression": [4, 8, 8]},
        "trained_on": Data(shards=str(tmp_path), budget=20).model_dump(mode="json"),
    }
    (tmp_path / "train.json").write_text(json.dumps(said))
    trained = Trained(tmp_path, averaged=True, vae="w", text_encoder=None)
    assert trained.vae == "w"
    # Tokens: 3 x 1 x 2, 2 x 2 x 3, and 1 x 2 x 3 of each picture.
    sizes = [(9, 16, 32), (5, 32, 48), (1, 32, 48), (1, 32, 48)]
    videos = [Video(str(i), np.zeros((*s, 3), np.uint8), 8.0, "") for i, s in enumerate(sizes)]
    found = [[v.name for v in pack] for pack in trained.packs(videos, 8)]
    assert found == [["0", "1"], ["2", "3"]]
    found = [[v.name for v in pack] for pack in trained.packs(videos, 1)]
    assert found == [["0"], ["1"], ["2"], ["3"]]


def test_a_broken_clip_is_skipped_and_counted(shapes: Shards) -> None:
    clips = real(data(shapes(6, SIZES, 1.0, 2)))
    assert len(list(clips)) == 5
    assert clips.skipped == 1


def write(folder: Path, *names: str) -> None:
    rng = np.random.default_rng(0)
    for i, name in enumerate(names):
        save_frames(folder / name, rng.integers(0, 256, (4 + i, 16, 32, 3), np.uint8), 12.0)


def test_videos_have_the_captions_beside_them(tmp_path: Path) -> None:
    write(tmp_path, "b.mp4", "a.gif", "c.mp4")
    (tmp_path / "a.txt").write_text("a dog\n")
    (tmp_path / "table.jsonl").write_text(
        '{"file_name": "videos/b.mp4", "text": "a cat"}\n\n{"file": "a.gif", "prompt": "no"}\n'
    )
    folder = VideoFolder(tmp_path, 9)
    assert folder.count == 3
    assert folder.captioned == 2
    found = list(folder)
    assert [(v.name, v.caption) for v in found] == [
        ("a.gif", "a dog"),
        ("b.mp4", "a cat"),
        ("c.mp4", ""),
    ]
    assert [v.frames.shape for v in found] == [(5, 16, 32, 3), (4, 16, 32, 3), (6, 16, 32, 3)]
    assert found[1].fps == 12
    assert VideoFolder(tmp_path, 2).count == 2


def test_a_broken_video_is_left_out_and_told(tmp_path: Path) -> None:
    write(tmp_path, "a.mp4")
    (tmp_path / "b.mp4").write_bytes(b"no video at all")
    folder = VideoFolder(tmp_path, 9)
    assert [v.name for v in folder] == ["a.mp4"]
    assert len(folder.broken) == 1
    assert folder.broken[0].startswith("b.mp4: ")


def test_folders_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="there is no folder"):
        VideoFolder(tmp_path / "absent", 9)
    with pytest.raises(UserError, match="holds no videos"):
        VideoFolder(tmp_path, 9)
    write(tmp_path, "a.mp4")
    (tmp_path / "x.jsonl").write_text('{"file_name": "a.mp4"}\n')
    with pytest.raises(UserError, match=r"x\.jsonl:1: no JSON object with the keys file_name and"):
        VideoFolder(tmp_path, 9)
    (tmp_path / "y.jsonl").write_text("")
    with pytest.raises(UserError, match="several tables"):
        VideoFolder(tmp_path, 9)
