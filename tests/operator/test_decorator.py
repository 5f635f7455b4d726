import numpy as np
import pytest
from pydantic import ValidationError

from vidcurate import Duration, FrameBatch, Frames, OperatorError, Resources, column, scorer
from vidcurate.operator.testing import make_clip


@scorer(
    "mean",
    version="3",
    frames=Frames(count=2),
    columns={"a": column("float32"), "b": column("float32")},
    reads=("other",),
    resources=Resources(cpus=2),
    extra="ocr",
)
def mean(frames: FrameBatch, clip, video, *, gain: float = 1.0, length: Duration = 2.0):
    """The mean."""
    value = float(frames.pixels.mean()) * gain
    return {"a": value, "b": clip.duration + video.width + length}


def test_the_function_is_given_what_it_names():
    clip = make_clip(np.full((2, 36, 64), 7), fps=10.0)
    assert mean(gain=2).score(clip) == {"a": 14.0, "b": pytest.approx(0.6 + 64 + 2)}


def test_the_declaration_is_on_the_class():
    assert (mean.name, mean.version, mean.kind, mean.extra) == ("mean", "3", "scorer", "ocr")
    assert mean.reads == ("other",)
    assert mean.resources.cpus == 2
    assert list(mean.columns) == ["a", "b"]
    assert mean().request() == Frames(count=2)
    assert mean.__doc__ == "The mean."
    assert mean.__name__ == "Mean"
    assert mean.__module__ == __name__


def test_parameters_are_validated():
    with pytest.raises(ValidationError, match="gian"):
        mean(gian=1)
    with pytest.raises(ValidationError, match="valid number"):
        mean(gain="x")
    recipe = {"recipe": True}
    assert mean.model_validate({"length": "3s"}, context=recipe).length == 3.0
    with pytest.raises(ValidationError, match="a number and a unit"):
        mean.model_validate({"length": 3}, context=recipe)
    assert mean().parameters() == {"gain": 1.0, "length": 2.0}


def test_a_single_column_and_no_frames():
    @scorer("one", columns=column("int32"))
    def one(clip):
        """One."""
        return clip.n_frames

    assert list(one.columns) == [""]
    assert one().request() is None
    assert one().score(make_clip(np.zeros((3, 36, 64)), fps=2.0)) == 3
    assert one.resources == Resources()


def test_two_operators_do_not_share_what_is_declared():
    @scorer("first", columns=column("int32"))
    def first(clip): ...

    @scorer("second", columns=column("bool"), version="2")
    def second(clip): ...

    assert (first.name, second.name) == ("first", "second")
    assert (first.version, second.version) == ("1", "2")
    assert first.columns[""].dtype == "int32"


def wrong_argument(pixels): ...


def no_default(clip, *, gain: float): ...


def no_type(clip, *, gain=1.0): ...


def frames_unasked(frames): ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            wrong_argument,
            "argument 'pixels' is none of frames, clip, video; parameters stand behind",
        ),
        (no_default, "parameter 'gain' needs a type and a default"),
        (no_type, "parameter 'gain' needs a type and a default"),
        (frames_unasked, r"takes `?frames`? but declares none \(frames=...\)"),
    ],
)
def test_mistakes(function, message):
    with pytest.raises(OperatorError, match=f"operator 'x'.*{message}"):
        scorer("x", columns=column("bool"))(function)
