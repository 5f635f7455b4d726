import pytest
from pydantic import BaseModel, ValidationError

from vidcurate.units import Duration, Share, Size, parse_duration, parse_share, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2s", 2.0),
        ("0.3s", 0.3),
        ("300ms", 0.3),
        ("1.5m", 90.0),
        ("2 min", 120.0),
        ("2h", 7200.0),
        ("1d", 86400.0),
        (0, 0.0),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", [2, 2.5, True, False, "2", "s", "-2s", "2 weeks", None, [1]])
def test_a_duration_without_a_unit_is_refused(text):
    with pytest.raises(ValueError, match="a number and a unit"):
        parse_duration(text)


def test_the_message_shows_the_number_with_a_unit():
    with pytest.raises(ValueError, match=r"for example 2\.5s"):
        parse_duration(2.5)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64MiB", 64 * 2**20),
        ("4TB", 4 * 10**12),
        ("500kB", 500_000),
        ("1.5 GiB", 3 * 2**29),
        ("7B", 7),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", [64, "64", "64M", "MiB", None])
def test_a_size_without_a_unit_is_refused(text):
    with pytest.raises(ValueError, match="a number and a unit"):
        parse_size(text)


@pytest.mark.parametrize(("text", "share"), [("1%", 0.01), (0.25, 0.25), ("100%", 1.0), (0, 0.0)])
def test_shares(text, share):
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", [1.5, -0.1, "101%", "a%", True, None])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(ValueError, match="a share"):
        parse_share(text)


class Model(BaseModel):
    length: Duration = 1.0
    size: Size = 1
    share: Share = 0.0


def test_python_takes_numbers():
    model = Model(length=2, size=5, share=0.5)
    assert (model.length, model.size, model.share) == (2.0, 5, 0.5)


def test_recipes_need_units():
    recipe = {"recipe": True}
    model = Model.model_validate({"length": "2s", "size": "1KiB", "share": "50%"}, context=recipe)
    assert (model.length, model.size, model.share) == (2.0, 1024, 0.5)
    for values in ({"length": 2}, {"size": 5}):
        with pytest.raises(ValidationError, match="a number and a unit"):
            Model.model_validate(values, context=recipe)


def test_the_json_schema_has_an_example():
    assert Model.model_json_schema()["properties"]["length"]["examples"] == ["2s"]
