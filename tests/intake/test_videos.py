import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from vidcurate.clip import video_id
from vidcurate.errors import UserError
from vidcurate.intake.videos import Intake
from vidcurate.operator.base import RowFault, VideoRow
from vidcurate.recipe.load import parse

BIRDS = "https://www.youtube.com/watch?v=birdsbirds1"
CATS = "https://www.youtube.com/watch?v=-catscats-2"


def table(file: Path, rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """A `table` source of these rows."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"table": {"path": str(file)}}


def intake(*sources: dict[str, Any], **keywords: Any) -> Intake:
    recipe = {"source": list(sources), "split": [{"timestamps": {}}], "output": "none"}
    return Intake(parse(yaml.safe_dump(recipe)), **keywords)


def read(found: Intake) -> tuple[list[VideoRow], list[RowFault]]:
    rows = list(found)
    videos = [r for r in rows if isinstance(r, VideoRow)]
    return videos, [r for r in rows if isinstance(r, RowFault)]


def row(url: str, start: float, end: float, **more: Any) -> dict[str, Any]:
    return {"url": url, "start": start, "end": end, **more}


def times(video: VideoRow) -> list[tuple[float | None, float | None]]:
    return [(c.start, c.end) for c in video.clips]


# --------------------------------------------------------------------------- where


def test_where_takes_listed_values_and_bounds_and_no_nulls(tmp_path):
    source = table(
        tmp_path / "a.jsonl",
        [
            row(BIRDS, 0, 1, label="desirable", score=0.5),
            row(BIRDS, 1, 2, label="still", score=0.5),
            row(BIRDS, 2, 3, label="desirable", score=0.42),
            row(BIRDS, 3, 4, label="desirable", score=None),
            row(BIRDS, 4, 5, label="desirable", score=0.43),
            row(CATS, 0, 1, label="still", score=0.9),
        ],
    )
    source["table"]["where"] = {"label": ["desirable"], "score": {"min": 0.43}}
    found = intake(source)
    [birds], faults = read(found)
    assert times(birds) == [(0, 1), (4, 5)]
    assert faults == []
    counts = found.counts["table"]
    assert (counts.videos, counts.clips, counts.filtered, counts.excluded) == (2, 6, 4, 0)


def test_where_names_the_column_that_the_dataset_lacks(tmp_path):
    source = table(tmp_path / "a.jsonl", [row(BIRDS, 0, 1, score=1.0)])
    source["table"]["where"] = {"scor": {"min": 1}}
    with pytest.raises(UserError, match=r"source table: where names the column 'scor'.*'score'"):
        intake(source)


def test_bounds_on_text_are_told(tmp_path):
    source = table(tmp_path / "a.jsonl", [row(BIRDS, 0, 1, label="x")])
    source["table"]["where"] = {"label": {"max": 1}}
    with pytest.raises(UserError, match="label holds 'x', which min and max cannot judge"):
        read(intake(source))


# --------------------------------------------------------------------------- exclude


@pytest.mark.parametrize(
    "line",
    [
        "-catscats-2  # taken down",
        CATS,
        "https://youtu.be/-catscats-2",
        "youtube:-catscats-2",
        video_id("youtube:-catscats-2"),
        "cat-7",
    ],
)
def test_a_list_excludes_by_any_name_of_the_video(tmp_path, line):
    (tmp_path / "gone.txt").write_text(f"# removals\n\n{line}\n")
    source = table(tmp_path / "a.jsonl", [row(BIRDS, 0, 1, id="b-1"), row(CATS, 0, 2, id="cat-7")])
    source["table"]["exclude"] = [str(tmp_path / "gone.txt")]
    found = intake(source)
    assert [v.location for v in read(found)[0]] == [BIRDS]
    assert found.counts["table"].excluded == 1


def test_another_source_is_an_exclude_list_with_its_own_where(tmp_path):
    benchmark = table(
        tmp_path / "benchmark.jsonl",
        [row("https://youtu.be/birdsbirds1", 5, 9, part="test"), row(CATS, 1, 2, part="train")],
    )
    benchmark["table"]["where"] = {"part": ["test"]}
    source = table(tmp_path / "a.jsonl", [row(BIRDS, 0, 1), row(CATS, 0, 2)])
    source["table"]["exclude"] = [benchmark]
    assert [v.location for v in read(intake(source))[0]] == [CATS]


def test_what_an_exclude_list_could_not_read_is_told(tmp_path):
    benchmark = table(tmp_path / "benchmark.jsonl", [row(BIRDS, 5, 9), row("http://x:port/", 1, 2)])
    with open(tmp_path / "benchmark.jsonl", "a") as file:
        file.write("broken\n")
    source = table(tmp_path / "a.jsonl", [row(BIRDS, 0, 1), row(CATS, 0, 2)])
    source["table"]["exclude"] = [benchmark]
    videos, faults = read(intake(source))
    assert [v.location for v in videos] == [CATS]
    assert all("in an exclude list, so what it names is not excluded" in f.message for f in faults)
    assert [(f.where, f.source) for f in faults] == [
        (f"{tmp_path / 'benchmark.jsonl'}:3", "table"),
        ("http://x:port/", "table"),
    ]


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        ("missing.txt", "missing.txt cannot be read: No such file"),
        ({"tabel": {}}, "did you mean 'table'"),
        (
            {"table": {"path": "x", "pth": "x"}},
            "exclude: table: pth: Extra inputs are not permitted",
        ),
    ],
)
def test_a_list_that_cannot_be_used_is_told(tmp_path, exclude, message):
    source = table(tmp_path / "a.jsonl", [row(BIRDS, 0, 1)])
    source["table"]["exclude"] = [exclude]
    with pytest.raises(UserError, match=message):
        intake(source)


def test_ids_of_clips_are_for_the_workers(tmp_path):
    clip = "0123456789abcdef0123456789abcdef"
    (tmp_path / "gone.txt").write_text(clip)
    source = table(tmp_path / "a.jsonl", [row(BIRDS, 0, 1)])
    source["table"]["exclude"] = [str(tmp_path / "gone.txt")]
    found = intake(source, banned=["f" * 32])
    assert found.banned_ids == {clip, "f" * 32}
    assert len(read(found)[0]) == 1


# --------------------------------------------------------------------------- several sources


def two(tmp_path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    first = table(
        tmp_path / "a.jsonl",
        [
            row(BIRDS, 0, 1, caption="a bird", score=0.5),
            row(CATS, 3, 4, caption="a cat", score=0.6),
        ],
    )
    second = table(
        tmp_path / "b.jsonl",
        [
            row("https://youtu.be/-catscats-2", 3.001, 4, caption="ein Kater", views=7, score="s"),
            row("https://youtu.be/-catscats-2", 10, 12, caption="two cats", views=8, score="t"),
            row("https://x.org/dog.mp4", 0, 5, caption="a dog", views=9, score="u"),
        ],
    )
    second["table"]["id"] = "web"
    return first, second


def test_what_two_datasets_name_is_one_video_and_a_shared_clip_is_one(tmp_path):
    found = intake(*two(tmp_path), scratch=tmp_path)
    videos, faults = read(found)
    assert faults == []
    assert [v.location for v in videos] == [BIRDS, CATS, "https://x.org/dog.mp4"]
    cats = videos[1]
    assert cats.key == "youtube:-catscats-2"
    assert cats.sources == ("table", "web")
    assert times(cats) == [(3, 4), (10, 12)]
    shared, own = cats.clips
    assert (shared.caption, shared.sources) == ("a cat", ("table", "web"))
    assert shared.fields == {"score": 0.6, "views": 7, "web_score": "s"}
    assert json.loads(shared.also["web"])["caption"] == "ein Kater"
    assert (own.caption, own.sources, own.also) == ("two cats", ("web",), {})
    counts = found.counts["web"]
    assert (counts.videos, counts.clips, counts.shared) == (2, 3, 1)
    # Once more, as a run under a limit does.
    assert read(found)[0] == videos
    assert found.counts["web"] == counts
    found.close()
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_whole_video_beside_clips_is_one_more_clip(tmp_path):
    first, _ = two(tmp_path)
    whole = table(tmp_path / "c.jsonl", [{"url": BIRDS, "caption": "all of it"}])
    whole["table"]["id"] = "whole"
    videos, _ = read(intake(first, whole, scratch=tmp_path))
    assert times(videos[0]) == [(0, 1), (None, None)]
    assert [c.caption for c in videos[0].clips] == ["a bird", "all of it"]


@pytest.mark.parametrize(
    ("start", "shared"),
    [(1.0, True), (1.019, True), (0.981, True), (1.021, False), (0.979, False), (0.0, False)],
)
def test_bounds_nearer_than_half_a_frame_are_one_clip(tmp_path, start, shared):
    one = table(tmp_path / "a.jsonl", [row(BIRDS, 1.0, 9)])
    other = table(tmp_path / "b.jsonl", [row(BIRDS, start, 9)])
    other["table"]["id"] = "b"
    found = intake(one, other, scratch=tmp_path)
    [birds], _ = read(found)
    found.close()
    assert times(birds) == ([(1.0, 9)] if shared else [(1.0, 9), (start, 9)])
    assert found.counts["b"].shared == shared


def test_faults_keep_their_source_and_do_not_stop_the_rest(tmp_path):
    first, second = two(tmp_path)
    (tmp_path / "b.jsonl").write_text("{broken\n" + (tmp_path / "b.jsonl").read_text())
    found = intake(first, second, scratch=tmp_path)
    videos, [fault] = read(found)
    assert len(videos) == 3
    assert fault.source == "web"
    assert fault.where.endswith("b.jsonl:1")
    assert found.counts["web"].faults == 1


def test_a_row_that_is_refused_later_is_a_fault(tmp_path):
    source = table(tmp_path / "a.jsonl", [row(BIRDS, 0, 1), row(BIRDS, 1, 2), row(CATS, 0, 1)])
    found = intake(source)
    [birds, _], _ = read(found)
    fault = found.refuse(birds, "too late")
    assert (fault.where, fault.message, fault.source) == (BIRDS, "too late", "table")
    assert fault.payload == {"clips": 2}
    counts = found.counts["table"]
    assert (counts.videos, counts.clips, counts.faults) == (1, 1, 1)


def test_equal_names_of_another_type_become_another_column(tmp_path):
    from vidcurate.clip import source_fields

    recipe = {"source": list(two(tmp_path)), "output": "none"}
    fields = source_fields(parse(yaml.safe_dump(recipe)))
    assert fields["table"]["score"].name == "score"
    assert fields["web"]["score"].name == "web_score"


# --------------------------------------------------------------------------- scattered rows

SCATTERED = """
from collections.abc import Iterator
from typing import ClassVar
import pyarrow as pa
from vidcurate import ClipRow, RowFault, Source, VideoRow

class Scattered(Source):
    \"\"\"Three videos, whose clips come in turns.\"\"\"
    name: ClassVar[str] = "scattered"
    is_grouped: ClassVar[bool] = False
    path: str = "."
    n: int = 3

    def videos(self) -> Iterator[VideoRow | RowFault]:
        for i in range(self.n):
            for video in "abc":
                clip = ClipRow(i, i + 1.0, caption=f"{video} {i}")
                yield VideoRow(f"https://x.org/{video}.mp4", clips=(clip,))
        yield VideoRow("https://x.org/a.mp4", clips=(ClipRow(0, 1.0, caption="a 0"),))
        yield VideoRow("https://x.org/a.mp4", clips=(ClipRow(0, 1.0, caption="another"),))
"""


@pytest.mark.parametrize("limit", [None, 2])
def test_rows_of_a_video_are_brought_together_wherever_they_stand(tmp_path, limit, monkeypatch):
    from vidcurate.operator import registry

    monkeypatch.setattr(registry, "_user", {})
    monkeypatch.setattr(registry, "_texts", {})
    (tmp_path / "scattered.py").write_text(SCATTERED)
    registry.load_file(str(tmp_path / "scattered.py"))
    found = intake({"scattered": {}}, limit=limit, scratch=tmp_path)
    videos, [fault] = read(found)
    assert [v.location[-5] for v in videos] == ["a", "b", "c"][:limit]
    assert {tuple(times(v)) for v in videos} == {((0, 1), (1, 2), (2, 3))}
    # A row that says the same is none; one that says something else is not lost silently.
    assert fault.message == "the clip from 0 s to 1 s is named twice; the first row is taken"
    assert fault.payload["caption"] == "another"
    assert fault.payload["interval"] == [0, 1]
    if limit is None:  # else not all was read
        counts = found.counts["scattered"]
        assert (counts.videos, counts.clips, counts.faults) == (3, 9, 1)
        read(found)
        assert found.counts["scattered"] == counts
    found.close()


def test_a_limit_reads_no_further_than_it_must(tmp_path):
    source = table(tmp_path / "a.jsonl", [row(f"https://x.org/{i}", 0, 1) for i in range(3000)])
    found = intake(source, limit=2)
    assert len(read(found)[0]) == 2
    assert found.counts["table"].videos == 1002  # rows of these two may follow this far behind
