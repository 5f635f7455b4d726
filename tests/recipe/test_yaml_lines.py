import pytest

from vidcurate.errors import RecipeError
from vidcurate.recipe.yaml_lines import parse_scalar, parse_yaml


def test_data_and_the_line_of_each_key():
    document = parse_yaml("a: 1\nb:\n  - c: {d: x}\n  - e\n", "f.yaml")
    assert document.data == {"a": 1, "b": [{"c": {"d": "x"}}, "e"]}
    assert document.where(("b", 0, "c", "d")) == "f.yaml:3"
    assert document.where(("b", 1)) == "f.yaml:4"


def test_the_place_of_what_is_not_there_is_that_of_what_is_around_it():
    document = parse_yaml("a:\n  b:\n    c: 1\n", "f.yaml")
    assert document.where(("a", "b", "x", "y")) == "f.yaml:2"
    assert document.where(("z",)) == "f.yaml:1"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("16:9", "16:9"),
        ("on", "on"),
        ("no", "no"),
        ("2024-01-31", "2024-01-31"),
        ("1e-3", 0.001),
        ("500_000", 500_000),
        ("010", 10),
        ("0x10", 16),
        ("-3", -3),
        (".5", 0.5),
        ("true", True),
        ("~", None),
        ("", None),
        ("2s", "2s"),
        ("-", "-"),
        (".inf", float("inf")),
    ],
)
def test_scalars(text, value):
    found = parse_scalar(text)
    assert found == value
    assert type(found) is type(value)


def test_quoted_scalars_stay_text():
    assert parse_yaml("a: '5'\nb: \"true\"\nc: |\n  7\n", "f").data == {
        "a": "5",
        "b": "true",
        "c": "7\n",
    }


def test_keys_are_text():
    assert parse_yaml("720: 1\non: 2", "f").data == {"720": 1, "on": 2}


def test_a_duplicate_key_is_told_with_both_lines():
    document = parse_yaml("a: 1\nb: 2\na: 3\n", "f.yaml")
    assert document.messages() == ["f.yaml:3: a: duplicate key 'a' (first on line 1)"]
    assert document.data == {"a": 1, "b": 2}


def test_tags_are_refused():
    document = parse_yaml("a: !!python/object:os.system x\n", "f.yaml")
    (message,) = document.messages()
    assert message.startswith("f.yaml:1: a: tag 'tag:yaml.org,2002:python/object:os.system'")


def test_anchors_are_fine_and_loops_are_not():
    assert parse_yaml("a: &x [1]\nb: *x", "f").data == {"a": [1], "b": [1]}
    (message,) = parse_yaml("a: &x [*x]", "f").messages()
    assert "stands in itself" in message


def test_a_bomb_of_aliases_is_refused():
    lines = ["a0: &a0 [1, 1]"] + [
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)
    ]
    with pytest.raises(RecipeError, match="more than 100000 values"):
        parse_yaml("\n".join(lines), "f")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: 2", r"f\.yaml:2: not valid YAML"),
        ("a: *x", r"f\.yaml:1: not valid YAML: found undefined alias"),
        ("a: 1\n\tb: 2", r"f\.yaml:2: not valid YAML"),
        ("a: 1\n---\nb: 2", r"f\.yaml:2: not valid YAML: but found another document"),
        ("a: \x00", r"f\.yaml: not valid YAML: .*special characters"),
        ("[" * 500, r"f\.yaml: nested too deeply"),
    ],
)
def test_what_is_no_yaml_is_told_with_its_line(text, message):
    with pytest.raises(RecipeError, match=message):
        parse_yaml(text, "f.yaml")
