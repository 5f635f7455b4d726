"""What inspect says of selections and shards."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vidcurate.errors import UserError
from vidcurate.recipe.model import Buckets, Fit, Limits, Pack
from vidcurate.shards.foreign import index_tars
from vidcurate.shards.inspection import (
    ScoreFacts,
    caption_of,
    index_of_shard,
    inspect_selection,
    inspect_shard,
    left_out,
    local,
    packed,
)
from vidcurate.shards.pack import pack_selection

from .conftest import SPANS, as_table, clip_row, film
from .test_tar_samples import write


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of eight clips six have 9 frames or more; a ninth is of a broken file. Never write to it."""
    root = tmp_path_factory.mktemp("inspection")
    films = [film(root / f"film{i}.mp4", i) for i in range(2)]
    rows = [clip_row(path, *span) for path in films for span in SPANS]
    broken = root / "broken.mp4"
    broken.write_text("no video")
    bad = rows[0] | {"clip_id": "f" * 32, "path": str(broken)}
    rows[1]["captions"] = [("long", " "), ("b", "c")]
    how = Pack(
        buckets=Buckets(short_side=(64,), aspect=("3:2",), frames=(9, 25)),
        fit=Fit(no_bucket="report"),
    )
    folder = root / "out" / "shards" / "base"
    pack_selection(as_table([*rows, bad]), how, folder, workers=1, limits=Limits(attempts=1))
    return folder


def test_a_selection(base: Path) -> None:
    about = inspect_selection(base)
    assert (about.selection, about.samples, about.videos, about.shards) == ("base", 6, 2, 2)
    assert (about.failures, about.no_bucket, about.is_foreign) == (1, 2, False)
    assert [(b.name, b.width, b.height, b.frames, b.samples) for b in about.buckets] == [
        ("64p_3x2_9f", 96, 64, 9, 2),
        ("64p_3x2_25f", 96, 64, 25, 4),
    ]
    assert about.minutes == pytest.approx(2 * (12 + 26 + 29) / 30 / 60)
    assert sum(b.minutes for b in about.buckets) == pytest.approx(about.minutes)
    tars = list(base.glob("*/*.tar"))
    assert about.bytes == sum(b.bytes for b in about.buckets) == sum(t.stat().st_size for t in tars)
    assert about.captions["b"] == 6
    assert about.captions["long"] == 5  # white space is none
    assert about.scores == {"motion": ScoreFacts(6, 0.5, 0.5, 0.5)}  # NaN is none
    assert about.splits == {"train": 6}
    assert (about.sound, about.vfr) == (6, 0)
    assert [set(made) for made in about.made_by] == [{"vidcurate", "av", "libavcodec"}]


def test_a_shard_by_its_index(base: Path) -> None:
    (tar,) = base.glob("64p_3x2_9f/*.tar")
    assert index_of_shard(tar) == (base.absolute(), f"64p_3x2_9f/{tar.name}")
    samples = inspect_shard(tar)
    assert sorted(s.n_frames for s in samples) == [12, 12]
    first = samples[0]
    assert (first.width, first.height, first.fps, first.split) == (96, 64, 30, "train")
    assert first.seconds == pytest.approx(0.4)
    assert list(first.members) == ["mp4", "json", "txt"]
    assert first.caption == "a texture"
    assert first.has_audio is True


def test_a_shard_without_an_index(base: Path, tmp_path: Path) -> None:
    (tar,) = base.glob("64p_3x2_9f/*.tar")
    shutil.copy(tar, tmp_path / "alone.tar")
    with_index, alone = inspect_shard(tar), inspect_shard(tmp_path / "alone.tar")
    assert [(s.sample_id, s.members) for s in alone] == [
        (s.sample_id, s.members) for s in with_index
    ]
    assert alone[0].caption == "frames 0 to 12"
    assert alone[0].n_frames is None


def test_a_foreign_index(films, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder / "a.tar", [("a.mp4", films[0].read_bytes()), ("a.txt", b"hi"), ("b.mp4", b"")])
    index_tars(folder, workers=1)
    about = inspect_selection(folder)
    assert (about.samples, about.is_foreign, about.failures) == (1, True, 1)
    assert about.captions == {"source": 1}
    assert [(b.name, b.width) for b in about.buckets] == [("native", None)]
    assert packed(folder) == [folder]
    assert left_out(folder, "a.tar") == {"a.tar#b": "the file is empty (0 bytes)"}
    assert left_out(folder, "b.tar") == {}


def test_buckets_that_were_chosen_are_told(films, tmp_path: Path) -> None:
    rows = [clip_row(films[0], *span, scores=[("up", float("inf"))]) for span in ((0, 12), (5, 31))]
    auto = Pack(buckets="auto")
    pack_selection(as_table(rows), auto, tmp_path / "base", workers=1, limits=Limits(attempts=1))
    about = inspect_selection(tmp_path / "base")
    assert about.chosen == {"short_side": [64], "aspect": ["3:2"], "frames": [9, 25]}
    assert {b.name for b in about.buckets} == {"64p_3x2_9f", "64p_3x2_25f"}
    Buckets.model_validate(about.chosen)  # as a recipe can have it
    assert about.scores == {}  # no number is infinite in JSON


def test_where_selections_are_found(base: Path, tmp_path: Path) -> None:
    out = base.parents[1]
    assert packed(base) == packed(base.parent) == packed(out) == [base]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no packed selection"):
        packed(tmp_path / "empty")
    with pytest.raises(UserError, match="no such"):
        packed(tmp_path / "none")
    (tmp_path / "empty" / "run.json").touch()
    with pytest.raises(UserError, match=r"not packed to its end: vidcurate pack .*empty"):
        packed(tmp_path / "empty")
    unfinished = tmp_path / "empty" / "shards" / "base"
    unfinished.mkdir(parents=True)
    write(unfinished / "a.tar", [])
    for path in (unfinished, unfinished.parent):
        with pytest.raises(UserError, match=r"is not packed to its end: vidcurate pack .*/empty$"):
            packed(path)
    (tmp_path / "tars").mkdir()
    write(tmp_path / "tars" / "a.tar", [])
    with pytest.raises(UserError, match="vidcurate index"):
        packed(tmp_path / "tars")
    with pytest.raises(UserError, match="only local paths"):
        local("s3://bucket/shards")


def test_the_caption_that_is_shown() -> None:
    assert caption_of({"source": "s", "long": "l", "a": "a"}) == "l"
    assert caption_of({"source": "s", "short": "two\n lines"}) == "two lines"
    assert caption_of({"source": "s", "long": " "}) == "s"
    assert caption_of({}) == ""
    assert caption_of({"source": "x" * 300}) == "x" * 200 + "…"
