"""The benchmark runs on small videos and reports as it says; timings are not tested."""

from __future__ import annotations

import json
from dataclasses import replace

import av
import benchmark
import benchmark_footage
import benchmark_work
import pytest

SMALL, LARGE = (320, 180), (480, 270)
TINY = benchmark.Effort(
    small=(SMALL, 2),
    large=(LARGE, 1),
    pairs=1,
    scenes=3,
    scene_size=SMALL,
    clips=((0.4, 1.4),),
    long=40,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("benchmark")


@pytest.fixture(scope="module")
def rows(bbb, folder):
    return list(benchmark.rows(TINY, bbb, folder))


def test_every_figure_is_measured(rows):
    assert [(row.unit, row.limit) for row in rows] == [
        ("x bare decode", 1.55),
        ("x bare decode", 1.2),
        ("x their CPU", 0.36),
        ("x exact", None),
        *[("F1", None)] * 4,
        ("x decoding as many frames", None),
        ("x decoding as many frames", None),
        ("GiB", 1.5),
        ("GiB", 1.5),
    ]
    assert all(0 < row.low <= row.value <= row.high for row in rows)


def test_made_cuts_are_found_by_both_profiles(rows):
    exact = [r for r in rows if r.unit == "F1" and "exact" in r.name]
    assert [(r.value, r.note) for r in exact] == [(1.0, "2 found of 2")] * 2
    assert all(r.value == 1.0 for r in rows if r.unit == "F1")


def test_memory_is_that_of_the_whole_video(rows, folder):
    # Chopped every 8 s. Python with OpenCV and FFmpeg alone takes 50 MiB.
    assert [row.note.split(" clips")[0] for row in rows[-2:]] == ["1", "5"]
    assert all(0.05 < row.value < 1.5 for row in rows[-2:])
    path = folder / "still_480x270_40s.mp4"
    with av.open(str(path)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times == pytest.approx([n / 5 for n in range(200)])


def test_real_footage_goes_there_and_back_with_b_frames(bbb, folder):
    path = benchmark_footage.real(bbb, SMALL, 6, folder)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
    assert (stream.width, stream.height, len(frames)) == (*SMALL, 150)
    assert {frame.pict_type for frame in frames} == {1, 2, 3}  # I, P and B
    first, there, back = (
        frames[n].to_ndarray(format="gray").astype(int)
        for n in (90, 118, 263 - 118)  # of 132 frames each way
    )
    assert abs(there - back).mean() < 3
    assert abs(there - first).mean() > 6


def test_separate_tools_take_the_same_frames_as_the_pass(folder):
    path, _ = benchmark_footage.cuts("x264's default", 4, SMALL, folder)
    clips = benchmark_work.spans(path)
    wanted = [benchmark_work._grid(clip, fps=2) for clip in clips]
    theirs = {
        time
        for _, times in benchmark_work._pictures(path, clips, wanted, 256, "gray")
        for time in times
    }
    first_at_or_after = [-(-k * 25 // 2) / 25 for k in range(100)]
    assert sorted(theirs) == pytest.approx([t for t in first_at_or_after if t < clips[-1][1]])


def test_f1_counts_each_cut_once():
    assert benchmark_work.f1([10, 20, 30], [10, 20, 30], 0) == 1.0
    assert benchmark_work.f1([10, 22], [10, 20], 0) == 0.5
    assert benchmark_work.f1([10, 22], [10, 20], 3) == 1.0
    assert benchmark_work.f1([10, 11], [10], 3) == pytest.approx(2 / 3)
    assert benchmark_work.f1([], [10], 3) == 0.0
    assert benchmark_work.f1([], [], 3) == 1.0


def test_both_sides_take_turns():
    done = []

    def task(name, parts):
        for part in range(parts):
            done.append(f"{name}{part}")
            yield

    taken = benchmark.turns(lambda: task("a", 3), lambda: task("b", 2))
    assert done == ["a0", "b0", "a1", "b1", "a2"]
    assert all(seconds >= 0 for seconds in taken)


ROW = benchmark.Row("copying", 0.5, "x encoding", 0.25, 0.75, 0.4)
FACTS = {"cpu": "A CPU, 2 cores", "load": "0.5", "versions": "Python 3"}


def test_the_table_says_what_was_missed():
    lines = benchmark.table([ROW], FACTS, "tools/benchmark.py").splitlines()
    assert lines[2] == "| copying | 0.50 x encoding | 0.25 to 0.75 | 0.4 missed |"
    assert lines[-1].startswith(
        "`tools/benchmark.py` on A CPU, 2 cores (load 0.5 at the start), Python 3."
    )


def test_only_the_block_is_replaced():
    text = f"a\n{benchmark.BEGIN}\nold\n{benchmark.END}\nb\n"
    assert benchmark.replaced(text, "new") == f"a\n{benchmark.BEGIN}\nnew\n{benchmark.END}\nb\n"
    with pytest.raises(SystemExit, match="has no <!-- benchmark:begin -->"):
        benchmark.replaced("a\n", "new")


@pytest.mark.parametrize(("limit", "status"), [(0.4, 1), (0.6, 0), (None, 0)])
def test_figures_are_published_and_judged(capsys, tmp_path, limit, status):
    readme, figures = tmp_path / "README.md", tmp_path / "figures.json"
    readme.write_text(f"# x\n{benchmark.BEGIN}\n{benchmark.END}\n")
    rows = [replace(ROW, limit=limit)]
    assert benchmark.publish(rows, FACTS, quick=True, figures=figures, readme=readme) == status
    row = {"name": "copying", "value": 0.5, "unit": "x encoding", "low": 0.25, "high": 0.75}
    assert json.loads(figures.read_text()) == {
        "machine": FACTS,
        "quick": True,
        "rows": [{**row, "limit": limit, "note": ""}],
    }
    printed = capsys.readouterr().out.strip()
    assert readme.read_text() == f"# x\n{benchmark.BEGIN}\n{printed}\n{benchmark.END}\n"


def test_the_machine_is_named():
    facts = benchmark.machine()
    assert set(facts) == set(FACTS)
    assert all(facts.values())
