from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vidcurate.operator.columns import Threshold
from vidcurate.recipe.model import Recipe, Step
from vidcurate.report import figures
from vidcurate.report.figures import Distribution, nice_step
from vidcurate.run.tables import Run
from vidcurate.run.tables import open as open_run

from .conftest import FINGERPRINTS, clip_row, commit, sharpness, technical, unsafe


def test_totals_and_fates(finished: Run, recipe: Recipe) -> None:
    totals = figures.totals(finished)
    assert (totals["videos"], totals["failed_videos"], totals["clips"]) == (4, 1, 40)
    assert (totals["video_s"], totals["clips_s"]) == (pytest.approx(6), pytest.approx(20))
    assert (totals["gated"], totals["failed_clips"]) == (14, 1)

    view = figures.selection_view(finished, "base")
    assert view is not None
    fates = figures.fates(finished, recipe, view)
    assert (fates.clips, fates.kept, fates.failed, fates.unjudged) == (40, 17, 1, 1)
    assert (fates.train, fates.val, fates.dropped) == (16, 1, 21)
    assert fates.kept_s == pytest.approx(8.5)
    assert [(d.by, d.reason, d.clips, d.left) for d in fates.drops] == [
        ("motion", "p95 < 0.5", 14, 26),
        ("unsafe", "unsafe > 0.5", 4, 22),
        ("where", "motion_mean >= 10.5", 3, 19),
    ]
    assert [(d.gate, d.safety) for d in fates.drops] == [(True, False), (False, True), (False, False)]  # fmt: skip  # noqa: E501


def test_a_selection_that_has_not_run(finished: Run) -> None:
    assert figures.selection_view(finished, "fine") is None


def by_column(run: Run, recipe: Recipe) -> dict[str, Distribution]:
    return {it.column: it for it in figures.distributions(run, recipe, FINGERPRINTS)}


def test_distributions_count_what_is_judged(finished: Run, recipe: Recipe) -> None:
    found = by_column(finished, recipe)

    p95 = found["motion_p95"]  # one clip holds a result of an older fingerprint
    assert (p95.judged, p95.spared, p95.nulls, p95.failing) == (39, 1, 0, 14)
    assert (p95.low, p95.high) == (0.25, 39)
    assert sum(b.clips for b in p95.bins) == 39
    sharp = found["sharpness"]  # a gate spared 14, one failed, one is null
    assert (sharp.judged, sharp.spared, sharp.nulls, sharp.failing) == (25, 15, 1, 0)
    assert sum(b.clips for b in sharp.bins) == 24
    assert found["technical_codec"].labels == [("h264", 30, True), ("vp9", 10, True)]
    assert found["technical_bit_depth"].labels == [("8", 20, True), ("10", 20, True)]
    assert found["technical_vfr"].labels == [("false", 35, True), ("true", 5, True)]
    assert found["technical_hash"].labels == []  # one value a clip


def scored(out: Path, recipe: Recipe, values: list[float | None]) -> Distribution:
    step = recipe.score[-1]
    clips = [clip_row("v", i, sharpness=value) for i, value in enumerate(values)]
    only = replace(recipe, score=(step,))
    commit(out, only, {"clips": clips})
    return by_column(open_run(out), only)["sharpness"]


def test_bins_hold_every_finite_value_in_its_place(tmp_path: Path, recipe: Recipe) -> None:
    values = [float(i) for i in range(100)]
    it = scored(tmp_path, recipe, [*values, None, float("nan"), float("inf")])

    assert (it.judged, it.nulls, it.nans) == (103, 1, 2)
    assert it.bins[0].low == 0
    for b in it.bins:
        assert b.clips == sum(b.low <= v < b.high for v in values)
    assert it.failing == 41  # 0 to 39 and the NaN


def test_a_far_outlier_goes_to_the_last_bin(tmp_path: Path, recipe: Recipe) -> None:
    it = scored(tmp_path, recipe, [float(i % 100) - 50 for i in range(2000)] + [1e9])

    assert it.high == 1e9
    assert it.bins[-1].high < 200
    assert sum(b.clips for b in it.bins) == 2001


def test_a_spread_of_ratios_has_a_logarithmic_scale(tmp_path: Path, recipe: Recipe) -> None:
    values = [10.0 ** (i / 100) for i in range(401)]  # 1 to 10,000
    it = scored(tmp_path, recipe, values)

    assert it.log
    assert it.bins[0].low == pytest.approx(1)
    assert it.bins[-1].high == pytest.approx(10_000)
    assert max(b.clips for b in it.bins) - min(b.clips for b in it.bins) <= 2  # equal ratios


@pytest.mark.parametrize("value", [0.0, 7.0, -3.0])
def test_a_single_value(tmp_path: Path, recipe: Recipe, value: float) -> None:
    it = scored(tmp_path, recipe, [value] * 5)

    assert sum(b.clips for b in it.bins) == 5
    assert it.bins[0].low <= min(value, 40)
    assert it.bins[-1].high >= max(value, 40)  # the threshold stays in sight


def test_no_value_at_all(tmp_path: Path, recipe: Recipe) -> None:
    it = scored(tmp_path, recipe, [None, None])

    assert (it.judged, it.nulls, it.bins, it.low) == (2, 2, [], None)


@pytest.mark.parametrize(
    ("threshold", "failing"),
    [
        (Threshold(min=3), 3),  # 1, 2 and the NaN
        (Threshold(max=3), 2),  # 4 and the NaN
        (Threshold(min=2, max=3), 3),
        (Threshold(min=0, on_null="drop"), 2),
    ],
)
def test_failing_is_what_a_threshold_violates(
    tmp_path: Path, recipe: Recipe, threshold: Threshold, failing: int
) -> None:
    values = [1.0, 2.0, 3.0, 4.0, float("nan"), None]
    assert failing == sum(threshold.violated(v) is not None for v in values)
    step = Step("sharpness", sharpness(), {"": threshold})
    it = scored(tmp_path, replace(recipe, score=(step,)), values)

    assert it.failing == failing


def test_labels_that_a_threshold_denies(tmp_path: Path, recipe: Recipe) -> None:
    step = Step("technical", technical(), {"codec": Threshold(allow=("h264",))})
    only = replace(recipe, score=(step,))
    codecs = ["h264", "h264", "it's <av1>", None]
    commit(tmp_path, only, {"clips": [clip_row("v", i, technical_codec=c) for i, c in enumerate(codecs)]})  # fmt: skip  # noqa: E501
    it = by_column(open_run(tmp_path), only)["technical_codec"]

    assert it.labels == [("h264", 2, True), ("it's <av1>", 1, False)]
    assert (it.failing, it.nulls) == (1, 1)


def test_a_step_that_has_not_run_has_no_distribution(tmp_path: Path, recipe: Recipe) -> None:
    only = replace(recipe, score=recipe.score[-1:])
    commit(tmp_path, only, {"clips": [clip_row("v", 0, sharpness=1.0)]})
    more = replace(recipe, score=(*only.score, Step("unsafe", unsafe())))

    assert set(by_column(open_run(tmp_path), more)) == {"sharpness"}


def test_nice_step() -> None:
    assert nice_step(0.03, False) == pytest.approx(0.05)
    assert nice_step(0.11, False) == pytest.approx(0.2)
    assert nice_step(100, False) == 100
    assert nice_step(0.3, True) == 1
    assert nice_step(2.2, True) == 3


def test_videos_with_their_kept_clips(finished: Run) -> None:
    view = figures.selection_view(finished, "base")
    found = [(row["clips"], row["kept"]) for row in figures.videos(finished, view)]

    assert found == [(20, 0), (12, 9), (8, 8)]
    assert [row["reason"] for row in figures.failed_videos(finished)] == ["404 <script>"]


def test_quarantine_examples(finished: Run) -> None:
    first, second = figures.quarantine(finished)

    assert (first["error"], first["items"], len(first["examples"])) == ("DecodeError", 5, 3)
    assert (second["error"], second["transient"], second["attempts"]) == ("AcquireError", True, 2)
    assert second["examples"][0]["location"] == "bad5<i>.mp4"
