import textwrap

import pytest

from vidcurate.operator import registry
from vidcurate.recipe.load import parse


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """User operators of one test are not there in the next."""
    monkeypatch.setattr(registry, "_user", {})
    monkeypatch.setattr(registry, "_texts", {})


@pytest.fixture
def recipe(tmp_path):
    """recipe("score: [motion]") is the Recipe of that text, with source and output given."""

    def build(text, **changes):
        head = f"source: {{folder: {{path: {tmp_path}}}}}\noutput: out\n"
        return parse(head + textwrap.dedent(text), path="f.yaml", **changes)

    return build


@pytest.fixture
def problems(recipe):
    """problems("score: [motoin]") are the messages; lines count from 3, where the text begins."""
    from vidcurate.errors import RecipeError

    def find(text, **changes):
        with pytest.raises(RecipeError) as caught:
            recipe(text, **changes)
        assert str(caught.value) == "\n".join(caught.value.problems)
        return list(caught.value.problems)

    return find
