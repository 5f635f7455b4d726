"""The benchmark of metadata runs on small files and reports as it says; timings are not tested."""

from __future__ import annotations

import json

import benchmark_metadata as benchmark
import pytest


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return list(benchmark.results(200_000, tmp_path_factory.mktemp("metadata")))


def test_each_case_reads_all_of_a_quarter_and_of_the_whole(found):
    grouped, plain, panda = benchmark.pairs(found)
    assert [(it.rows, it.given) for it in grouped] == [(125, 4), (500, 16)]
    assert [(it.rows, it.given) for it in plain] == [(125, 125), (500, 500)]
    assert all(it.rows == it.given for it in panda)
    for quarter, whole in (grouped, plain):
        assert whole.bytes == pytest.approx(200_000, rel=0.15)
        assert quarter.bytes == pytest.approx(50_000, rel=0.15)
    assert 20_000 <= panda[1].bytes < 40_000
    assert all(it.peak > 20 * 2**20 for it in found)
    assert all(it.cpu > 0 and it.seconds > 0 for it in found)


def test_the_table_tells_speed_and_the_ratio_of_peaks(found):
    _, _, *lines = benchmark.table(found).splitlines()
    assert len(lines) == 3
    (quarter, whole), *_ = benchmark.pairs(found)
    cells = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert cells[:2] == ["InternVid's JSONL, brought together by video", "500"]
    assert cells[3] == f"{whole.rows / whole.cpu:,.0f}"
    assert cells[-1] == f"{whole.peak / quarter.peak:.2f}"


def test_rows_of_a_video_stand_far_apart(tmp_path):
    file = tmp_path / "a.jsonl"
    assert benchmark.write_internvid(file, 400 * 300) == 300
    names = [json.loads(line)["YoutubeID"] for line in file.read_text().splitlines()]
    assert len(set(names)) == 10
    assert all(len(set(names[i : i + 10])) == 10 for i in range(0, 300, 10))
