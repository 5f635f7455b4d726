from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml

from vidcurate.errors import UserError
from vidcurate.shards.reader.captions import Captions

TEXTS = {"source": "a hare", "long": "A white hare wakes up in a meadow.", "short": "A hare."}
SCORES = {"motion_p95": 1.2, "aesthetic": 5.46}
WORDS = {"motion_p95": [(0.5, "barely moving"), (2, "calm"), (None, "fast")]}


def render(value: Any, texts: Any = TEXTS, scores: Any = SCORES, seed: int | list[int] = 0) -> str:
    return Captions.of(value).render(texts, scores, np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("long", "A white hare wakes up in a meadow."),
        ("{ short }", "A hare."),
        ("{rewrite or short or long}", "A hare."),
        ("{source}, scored {aesthetic:.1f}", "a hare, scored 5.5"),
        ("{motion_p95:.0%} {aesthetic:.3g} {aesthetic:.1e}", "120% 5.46 5.5e+00"),
        ("{{long}} {short}", "{long} A hare."),
        ("a film.", "a film."),
    ],
)
def test_the_language(template: str, text: str) -> None:
    assert render(template) == text


def test_what_a_caption_holds_is_never_read_as_a_template() -> None:
    texts = {"long": "{short} {0.__class__} %s {{ {aesthetic:.1f}", "short": "no"}
    assert render("<{long}>", texts) == f"<{texts['long']}>"


@pytest.mark.parametrize(
    ("score", "words"),
    [(-1.0, "barely moving"), (0.49, "barely moving"), (0.5, "calm"), (2.0, "fast"), (9, "fast")],
)
def test_scores_as_words(score: float, words: str) -> None:
    captions = Captions({"{long} Motion: {motion_p95|words}.": 1}, WORDS)
    drawn = captions.render(TEXTS, {"motion_p95": score}, np.random.default_rng(0))
    assert drawn == f"{TEXTS['long']} Motion: {words}."


def test_a_negative_score_that_rounds_to_nothing_has_no_sign() -> None:
    assert render("{a:.1f}", scores={"a": -0.04}) == "0.0"


def test_a_mix_draws_by_weight_and_equal_seeds_draw_equally() -> None:
    drawn = [render({"long": 7, "short": 3}, seed=[1, i]) for i in range(1000)]
    assert Counter(drawn)[TEXTS["long"]] == pytest.approx(700, abs=45)  # 3 standard deviations
    assert drawn == [render({"long": 7, "short": 3}, seed=[1, i]) for i in range(1000)]


def test_drop_gives_the_empty_caption_in_its_share() -> None:
    captions = Captions({"long": 0.5, "short": 0.5}, drop=0.2)
    rng = np.random.default_rng(3)
    drawn = Counter(captions.render(TEXTS, SCORES, rng) for _ in range(2000))
    assert drawn[""] == pytest.approx(400, abs=54)
    assert drawn["A hare."] == pytest.approx(800, abs=66)
    assert captions.lacks(TEXTS, SCORES) == ()
    assert render({"mix": "long", "drop": 1}) == ""


def test_render_takes_as_many_numbers_whatever_the_sample_holds() -> None:
    captions = Captions({"long": 0.5, "short": 0.5}, drop=0.5)
    after = set()
    for texts in (TEXTS, {}, {"short": "A hare."}):
        rng = np.random.default_rng(5)
        captions.render(texts, {}, rng)
        after.add(rng.random())
    assert len(after) == 1


def test_a_template_that_a_sample_cannot_fill_leaves_its_share_to_the_others() -> None:
    mix = {"long": 0.6, "short": 0.3, "source": 0.1}
    texts = {"short": "A hare.", "source": "a hare", "long": "  "}
    drawn = Counter(render(mix, texts, seed=[2, i]) for i in range(1000))
    assert set(drawn) == {"A hare.", "a hare"}
    assert drawn["A hare."] == pytest.approx(750, abs=41)


def test_weight_0_is_for_samples_that_can_fill_no_other() -> None:
    mix = {"{long} Score: {aesthetic:.1f}.": 1, "short": 0, "source": 0}
    assert {render(mix, seed=i) for i in range(50)} == {f"{TEXTS['long']} Score: 5.5."}
    assert {render(mix, scores={}, seed=i) for i in range(50)} == {"A hare."}
    assert render(mix, {"source": "a hare"}) == "a hare"


@pytest.mark.parametrize("score", [None, float("nan"), float("inf"), "missing"])
def test_a_score_without_a_value_is_lacking(score: Any) -> None:
    scores = {} if score == "missing" else {"aesthetic": score}
    captions = Captions.of("{long} {aesthetic:.1f}")
    assert captions.render(TEXTS, scores, np.random.default_rng(0)) == ""
    assert captions.lacks(TEXTS, scores) == ("aesthetic",)


def test_lacks_tells_want_of_text_from_drop_out() -> None:
    captions = Captions({"{long or rewrite} {aesthetic:.1f}": 1, "short": 1}, drop=0.5)
    assert captions.lacks({"source": "a hare"}, {}) == ("long or rewrite", "aesthetic", "short")
    assert captions.lacks({"long": None, "short": ""}, SCORES) == ("long or rewrite", "short")
    assert captions.lacks({"short": "A hare."}, {}) == ()


def test_without_templates_captions_are_empty_and_nothing_is_lacking() -> None:
    captions = Captions.of(None)
    assert captions.render(TEXTS, SCORES, np.random.default_rng(0)) == ""
    assert captions.lacks({}, {}) == ()
    assert captions.variants(TEXTS, SCORES, 2, "a") == ["", ""]


def test_white_space_around_a_caption_is_cut_off() -> None:
    assert render("<{long}>", {"long": " two\nlines \n"}) == "<two\nlines>"


def test_variants_have_their_shares_and_none_is_dropped() -> None:
    captions = Captions({"long": 0.7, "short": 0.3, "source": 0}, drop=0.9)
    ten = captions.variants(TEXTS, SCORES, 10, "seed:a")
    assert Counter(ten) == {TEXTS["long"]: 7, "A hare.": 3}
    counts = [Counter(captions.variants(TEXTS, SCORES, 2, str(i))) for i in range(500)]
    shorts = [c["A hare."] for c in counts]
    assert set(shorts) == {0, 1}  # 0.6 of two, rounded down or up
    assert np.mean(shorts) == pytest.approx(0.6, abs=0.066)
    assert captions.variants(TEXTS, SCORES, 4, "x") == captions.variants(TEXTS, SCORES, 4, "x")
    assert captions.variants({}, {}, 2, "x") == ["", ""]
    with pytest.raises(UserError, match="at least 1 variant"):
        captions.variants(TEXTS, SCORES, 0, "x")


def test_variants_stay_what_they_are_from_version_to_version() -> None:
    captions = Captions({"long": 1, "short": 1})
    drawn = [captions.variants(TEXTS, {}, 1, f"7:{i}")[0] == "A hare." for i in range(8)]
    assert "".join("s" if short else "l" for short in drawn) == "llllslss"


def test_the_fingerprint_covers_every_parameter() -> None:
    captions = Captions({"{long} {motion_p95|words}": 2, "short": 1}, WORDS, drop=0.1)
    others = [
        captions,
        Captions({"{long}, {motion_p95|words}": 2, "short": 1}, WORDS, drop=0.1),
        Captions({"{long} {motion_p95|words}": 3, "short": 1}, WORDS, drop=0.1),
        Captions({"short": 1, "{long} {motion_p95|words}": 2}, WORDS, drop=0.1),
        replace(captions, words={"motion_p95": [(0.6, "calm"), (None, "fast")]}),
        replace(captions, drop=0.0),
        Captions(),
    ]
    assert len({c.fingerprint() for c in others}) == len(others)
    same = Captions.of({"mix": {"{long} {motion_p95|words}": 2, "{short}": 1.0}, "words": WORDS})
    assert same.fingerprint() == replace(captions, drop=0.0).fingerprint()


def test_plain_values_of_yaml() -> None:
    text = """
    mix: {long: 0.7, "{short} Motion: {motion_p95|words}.": 0.3}
    words: {motion_p95: [[0.5, barely moving], [2, calm], [null, fast]]}
    drop: 10%
    """
    captions = Captions.of(yaml.safe_load(text))
    mix = {"{long}": 0.7, "{short} Motion: {motion_p95|words}.": 0.3}
    assert captions == Captions(mix, WORDS, 0.1)
    assert Captions.of(captions) is captions
    assert Captions.of({"mix": "long"}) == Captions.of("{long}") == Captions({"long": 1})


def test_captions_travel_to_workers() -> None:
    captions = Captions({"{long} {motion_p95|words}": 2, "short": 1}, WORDS, drop=0.1)
    again = pickle.loads(pickle.dumps(captions))  # noqa: S301, our own bytes
    assert again == captions
    assert again.variants(TEXTS, SCORES, 5, "a") == captions.variants(TEXTS, SCORES, 5, "a")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{long", "has a lone '{'"),
        ("long}", "has a lone '}'"),
        ("{}", "is no field"),
        ("{long.__class__()}", "is no field"),
        ("{long!r}", "is no field"),
        ("{long[0]}", "is no field"),
        ("{aesthetic:>10}", "such as .1f or .0%"),
        ("{aesthetic:}", "such as .1f or .0%"),
        ("{a or b:.1f}", "between captions, not scores"),
        ("{motion|word}", "did you mean 'words'"),
        ("{motion|words}", r"words: {motion: \[\[0.5, low\], \[null, high\]\]}"),
        ("", "set `drop`"),
        ({" ": 1}, "set `drop`"),
        ({3: 1}, "a template is text, not 3"),
        ({"long": None}, r'stands in quotes: "{long}"'),
        ({"long": -1}, "a number >= 0, not -1"),
        ({"long": True}, "a number >= 0, not True"),
        ({"long": float("nan")}, "a number >= 0, not nan"),
        ({"long": 0, "short": 0}, "every weight in mix is 0"),
        ({"long": 1, "{long}": 1}, "stands twice"),
        ({"mix": "long", "dorp": 0.1, "drop": 0}, "'dorp' is no key of captions; did you mean"),
        ({"drop": 0.1}, "mix is missing"),
        ({"mix": "long", "drop": 2}, "between 0 and 1"),
        ({"mix": "long", "words": ["fast"]}, "words is a mapping"),
        (["long"], "a template, a mapping"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_remedy(value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Captions.of(value)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([], "a list of"),
        ("fast", "a list of"),
        ([["fast"]], "is no such pair"),
        ([[1, "slow"], [0.5, "calm"], [None, "fast"]], r"must rise; they are \[1.0, 0.5\]"),
        ([[1, "slow"], [1, "calm"], [None, "fast"]], "must rise"),
        ([[1, "slow"], [2, "fast"]], "the last bound, and no other"),
        ([[None, "slow"], [None, "fast"]], "the last bound, and no other"),
        ([[float("nan"), "slow"], [None, "fast"]], "a bound is a number"),
        ([["1", "slow"], [None, "fast"]], "a bound is a number"),
        ([[1, ""], [None, "fast"]], "are text, not ''"),
    ],
)
def test_thresholds_that_cannot_be_used(levels: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Captions({"{motion|words}": 1}, {"motion": levels})


def test_words_that_no_template_uses() -> None:
    with pytest.raises(UserError, match=r"'motoin' are used by no template.*did you mean 'motion"):
        Captions.of(
            {
                "mix": "{motion_p95|words}",
                "words": {**WORDS, "motoin": WORDS["motion_p95"]},
            }
        )


def test_a_drop_beyond_a_share() -> None:
    with pytest.raises(UserError, match="a share from 0 to 1, not 10"):
        Captions({"long": 1}, drop=10)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{lnog}", "no sample has a caption 'lnog'; did you mean 'long'"),
        ("{aesthetic}", "it is a score: write {aesthetic:.1f} or {aesthetic|words}"),
        ("{long:.1f}", "it is a caption: write {long}"),
        ("{long} {aesthetics:.1f}", "no sample has a score 'aesthetics'; did you mean 'aesthetic'"),
    ],
)
def test_check_against_the_names_in_the_data(template: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        Captions.of(template).check(TEXTS, SCORES)
    assert message in str(caught.value)


def test_check_passes_where_one_of_the_names_is_there() -> None:
    Captions.of("{rewrite or long} {aesthetic:.1f}").check(TEXTS, SCORES)
