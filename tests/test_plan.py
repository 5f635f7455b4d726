"""Fingerprints change exactly with what they must; plans travel."""

import pickle

import pytest

from vidcurate import Frames, plan
from vidcurate.operator import registry
from vidcurate.plan import ScorePlan, fingerprints, in_audit
from vidcurate.recipe.load import from_raw

BASE = {
    "source": {"folder": {"path": "videos"}},
    "split": [{"scenes": {"threshold": 27}}],
    "edit": ["borders"],
    "score": [
        {"technical": {"short_side": {"min": 100}}},
        {"motion": {"p95": {"min": 0.5}, "gate": True}},
        {"sharpness": {}},
    ],
    "output": "out",
}
STEPS = {"technical", "motion", "sharpness"}
ALL = {"split", "edit", *STEPS}


def prints(**changes):
    return fingerprints(from_raw(BASE | changes))


def changed(**changes):
    before, after = prints(), prints(**changes)
    return {k for k in before.keys() & after.keys() if before[k] != after[k]}


def test_nothing_changes_by_itself():
    assert prints() == prints()
    assert set(prints()) == ALL
    assert len(set(prints().values())) == len(ALL)


@pytest.mark.parametrize(
    "harmless",
    [
        {"output": "elsewhere"},
        {"source": {"folder": {"path": "others"}}},
        {"name": "new"},
        {"audit": "5%"},
        {"media": "none"},
        {"executor": "ray"},
        {"limits": {"attempts": 3}},
        {"select": {"a": {"limit": 3}}},
        {"edit": ["borders", {"resize": {"short_side": 256}}]},
        {
            "score": [
                {"sharpness": {"min": 3, "report_only": True}},
                {"motion": {"p95": {"min": 9}}},
                "brightness",
                {"technical": {"on_error": "skip"}},
            ]
        },
    ],
    ids=str,
)
def test_what_results_do_not_depend_on(harmless):
    """Paths, thresholds, gates, order, other steps, sizes that pack alone writes."""
    assert changed(**harmless) == set()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"hdr": "refuse"}, ALL),
        ({"profile": "fast"}, ALL),
        ({"split": [{"scenes": {"threshold": 30}}]}, ALL),
        ({"split": [{"scenes": {"threshold": 27, "max_length": "9s"}}]}, ALL),
        ({"split": [{"timestamps": {}}, {"scenes": {"threshold": 27}}]}, ALL),
        ({"edit": [{"borders": {"threshold": 20}}]}, ALL - {"split"}),
        ({"edit": []}, ALL - {"split"}),
        ({"edit": ["borders", {"crop": {"left": 8}}]}, ALL - {"split"}),
        (
            {"score": ["technical", "motion", {"shot_count": {"jump": 9, "id": "sharpness"}}]},
            {"sharpness"},
        ),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
def test_what_results_depend_on(change, what):
    assert changed(**change) == what


def test_sampling_rules(monkeypatch):
    before = prints()
    monkeypatch.setattr(plan, "SAMPLING_VERSION", 99)
    after = prints()
    assert all(before[k] != after[k] for k in before)


CHAIN = """
from vidcurate import Frames, column, scorer

@scorer("one", frames=Frames(count={count}), version="{version}", columns=column("float32"))
def one(frames, *, factor: float = 1.0):
    \"\"\"A number.\"\"\"
    return factor

@scorer("two", reads=("one",), columns=column("float32"))
def two(clip):
    \"\"\"Reads one.\"\"\"
    return clip.scores["one"]

@scorer("three", columns=column("float32"))
def three(clip):
    \"\"\"Reads nothing.\"\"\"
    return 1.0
"""


@pytest.fixture
def chain(monkeypatch, tmp_path):
    """Fingerprints of three scorers of a file, of which the second reads the first."""
    monkeypatch.setattr(registry, "_user", {})
    monkeypatch.setattr(registry, "_texts", {})

    def prints(count=1, version="1", **parameters):
        registry._user.clear()
        (tmp_path / "mine.py").write_text(CHAIN.format(count=count, version=version))
        registry.load_file(str(tmp_path / "mine.py"))
        return fingerprints(
            from_raw(
                {
                    "source": {"folder": {"path": "videos"}},
                    "score": [{"one": parameters}, "two", "three"],
                    "output": "out",
                }
            )
        )

    return prints


def test_what_reads_a_changed_column_changes_too(chain):
    before, after = chain(), chain(factor=2.0)
    assert {k for k in before if before[k] != after[k]} == {"one", "two"}
    assert chain(factor=1.0) == before  # the default, written out


@pytest.mark.parametrize("change", [{"count": 2}, {"version": "2"}])
def test_a_users_file_is_part_of_its_steps(chain, change):
    before, after = chain(), chain(**change)
    assert {"one", "two"} <= {k for k in before if before[k] != after[k]}
    assert before["split"] == after["split"]


def test_plans_travel_and_build_their_steps():
    made = ScorePlan.of(from_raw(BASE), ["rank"])
    again = pickle.loads(pickle.dumps(made))  # noqa: S301 (our own bytes)
    assert again == made
    step = again.score[1].build()
    assert (step.id, step.gate, step.thresholds["p95"].min) == ("motion", True, 0.5)
    assert step.operator.request() == Frames(fps=2, short_side=256, color="gray")
    assert again.split[0].build().operator.threshold == 27


def test_the_audit_is_a_share_chosen_by_id():
    ids = [f"{i:032x}" for i in range(4000)]
    chosen = {i for i in ids if in_audit(i, 0.1)}
    assert 320 < len(chosen) < 480
    assert chosen < {i for i in ids if in_audit(i, 0.2)}
    assert not any(in_audit(i, 0.0) for i in ids)
    assert all(in_audit(i, 1.0) for i in ids)
