import pytest

from vidcurate.recipe.override import apply_set, expand, step_id, step_name
from vidcurate.recipe.yaml_lines import parse_yaml

TEXT = """\
source: folder
score:
  - technical
  - motion: {p95: {min: 0.5}}
  - {name: static, id: still, max: 1}
  - motion: {id: slow}
select: {base: {limit: 5}}
"""


def changed(*overrides):
    document = parse_yaml(TEXT, "f.yaml")
    for override in overrides:
        apply_set(document, override)
    assert document.messages() == []
    return document


def test_a_value_is_yaml():
    data = changed("audit=5%", "select.base.limit=500_000", "pack={encode: copy}", "x=").data
    assert data["audit"] == "5%"
    assert data["select"] == {"base": {"limit": 500_000}}
    assert data["pack"] == {"encode": "copy"}
    assert data["x"] is None


@pytest.mark.parametrize(
    ("path", "index", "settings"),
    [
        ("score.technical.fps.min", 0, {"technical": {"fps": {"min": 7}}}),
        ("score.0.fps.min", 0, {"technical": {"fps": {"min": 7}}}),
        ("score.motion.p95.min", 1, {"motion": {"p95": {"min": 7}}}),
        ("score.motion.mean.max", 1, {"motion": {"p95": {"min": 0.5}, "mean": {"max": 7}}}),
        ("score.still.max", 2, {"name": "static", "id": "still", "max": 7}),
        ("score.slow.gate", 3, {"motion": {"id": "slow", "gate": 7}}),
        ("score.3", 3, 7),
        ("score.technical", 0, {"technical": 7}),
    ],
)
def test_a_step_is_named_by_id_or_position(path, index, settings):
    assert changed(f"{path}=7").data["score"][index] == settings


def test_other_settings_keep_the_id():
    assert changed("score.still={max: 2}").data["score"][2] == {"static": {"id": "still", "max": 2}}
    assert changed("score.motion=").data["score"][1] == {"motion": None}


def test_missing_mappings_are_made():
    assert changed("pack.fit.max_crop=0.2").data["pack"] == {"fit": {"max_crop": 0.2}}
    assert changed("source.folder.path=x").data["source"] == {"folder": {"path": "x"}}


def test_the_place_of_a_changed_value_is_its_option():
    document = changed("score.motion.p95.min=0.7")
    assert document.where(("score", 1, "motion", "p95", "min")) == "--set score.motion.p95.min=0.7"
    assert document.where(("score", 1, "motion", "p95")) == "f.yaml:4"
    whole = changed("score.motion.p95={min: 1}")
    assert whole.where(("score", 1, "motion", "p95", "min")).startswith("--set")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("audit", "--set audit: is not written as path.to.key=value"),
        ("a..b=1", "--set a..b=1: is not written as path.to.key=value"),
        (
            "score.motoin.p95.min=1",
            "no step 'motoin' under score; did you mean 'motion'? "
            "(known: technical, motion, still, slow)",
        ),
        ("score.9.x=1", "no step '9' under score"),
        ("edit.borders.x=1", "the recipe has no steps under 'edit'"),
        ("select.base.limit.x=1", "'select.base.limit' holds a plain value, not keys"),
        ("a=[1", "the value '[1' is not YAML"),
    ],
)
def test_mistakes(override, message):
    document = parse_yaml(TEXT, "f.yaml")
    apply_set(document, override)
    (problem,) = document.messages()
    assert problem.startswith(f"--set {override}: ")
    assert message in problem


def test_variables_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("DATA", "/data")
    document = parse_yaml("a: ${DATA}/x\nb: ['${DATA}-${DATA}', 5]\n", "f.yaml")
    assert expand(document, document.data) == {"a": "/data/x", "b": ["/data-/data", 5]}
    assert document.data["a"] == "${DATA}/x"
    assert document.messages() == []


def test_a_variable_that_is_not_set_is_told_with_its_line(monkeypatch):
    monkeypatch.delenv("NOT_SET", raising=False)
    document = parse_yaml("a: 1\nb: {c: '${NOT_SET}'}\nd: ${2x}", "f.yaml")
    expand(document, document.data)
    assert document.messages() == [
        "f.yaml:2: b.c: the environment variable NOT_SET is not set; export NOT_SET=... first",
        "f.yaml:3: d: ${2x} is not a variable; write ${NAME}",
    ]


@pytest.mark.parametrize(
    ("entry", "name", "identity"),
    [
        ("motion", "motion", "motion"),
        ({"motion": None}, "motion", "motion"),
        ({"motion": {"id": "a"}}, "motion", "a"),
        ({"name": "motion", "id": "a"}, "motion", "a"),
        ({"a": 1, "b": 2}, None, None),
        (5, None, None),
        ({}, None, None),
    ],
)
def test_names_of_entries(entry, name, identity):
    assert step_name(entry) == name
    assert step_id(entry) == identity
