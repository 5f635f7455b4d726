"""What each mode makes of given clips: which frames the model sees, and where they come out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vidcurate.errors import UserError
from vidcurate.train.sampling.modes import (
    Mode,
    Room,
    Wish,
    check_given,
    check_mode,
    check_options,
    keys_of,
)
from vidcurate.train.sampling.sampler import to_levels

NEW, EDITED = 254.0, 255.0  # levels that stand for such frames


def numbered(first: int, frames: int) -> Tensor:
    """Frames uint8 (frames, 3, 2, 2), each full of its number."""
    numbers = torch.arange(first, first + frames, dtype=torch.uint8)
    return numbers[:, None, None, None].expand(-1, 3, 2, 2)


def told(mode: Mode, room: Room, *given: Tensor, **asked: object) -> tuple[str, str]:
    """What the model sees, and the result: numbers of frames; * new, ~ edited."""
    laid = Wish(mode, given, (2, 2), 8.0, **asked).laid(room)  # type: ignore[arg-type]
    start = laid.start
    assert torch.allclose(start.times, torch.arange(len(start.tau), dtype=torch.float64) / 8)
    assert start.latent.dtype == torch.float32
    mark = torch.where(start.tau == 1, NEW, torch.where(start.tau > 0, EDITED, 0))
    shown = to_levels(start.latent)[:, 0, 0, 0].where(mark == 0, mark.to(torch.uint8))
    # A long clip is neither copied nor grown to floats but where the model sees it.
    result = laid.result(shown[:, None, None, None].expand(-1, 3, 2, 2))
    assert result.dtype == laid.before.dtype == laid.after.dtype == torch.uint8
    names = {NEW: "*", EDITED: "~"}
    return (
        " ".join(names.get(v, f"{v:g}") for v in shown.tolist()),
        " ".join(names.get(v, f"{v:g}") for v in result[:, 0, 0, 0].tolist()),
    )


ONE, TWO = numbered(1, 6), numbered(11, 6)


@pytest.mark.parametrize(
    ("mode", "given", "asked", "seen", "result"),
    [
        ("text_to_video", (), {}, "* * * * * * *", None),
        ("text_to_video", (), {"frames": 2}, "* *", None),
        ("text_to_image", (), {}, "*", None),
        ("image_to_video", (ONE,), {"frames": 4}, "1 * * *", None),
        ("edit", (ONE,), {}, "~ ~ ~ ~ ~ ~", None),
        ("edit", (ONE,), {"frames": 2}, "~ ~", None),
        ("forward", (ONE,), {}, "3 4 5 6 * * *", "1 2 3 4 5 6 * * *"),
        ("forward", (ONE,), {"frames": 2, "keep": 1}, "6 * *", "1 2 3 4 5 6 * *"),
        ("forward", (ONE,), {"frames": 9}, "6" + 9 * " *", "1 2 3 4 5 6" + 9 * " *"),
        ("backward", (ONE,), {}, "* * * 1 2 3 4", "* * * 1 2 3 4 5 6"),
        ("join", (ONE, TWO), {}, "5 6 * * * 11 12", "1 2 3 4 5 6 * * * 11 12 13 14 15 16"),
        ("join", (ONE, TWO[:1]), {"frames": 1, "keep": 2}, "5 6 * 11", "1 2 3 4 5 6 * 11"),
        ("loop", (ONE,), {}, "5 6 * * * 1 2", "1 2 3 4 5 6 * * *"),
        ("loop", (ONE[:1],), {"frames": 3}, "1 * * * 1", "1 * * *"),
        ("blend", (ONE, TWO), {}, "2 3 ~ ~ ~ 14 15", "1 2 3 ~ ~ ~ 14 15 16"),
        ("blend", (ONE, TWO), {"frames": 6}, "~ ~ ~ ~ ~ ~", None),
    ],
)
def test_modes_lay_out_what_is_given(
    mode: Mode, given: tuple[Tensor, ...], asked: dict[str, int], seen: str, result: str | None
) -> None:
    """A model that was trained on 7 frames."""
    assert told(mode, Room(7), *given, **asked) == (seen, result or seen)


LONG, OTHER = numbered(1, 12), numbered(21, 12)


@pytest.mark.parametrize(
    ("mode", "given", "asked", "seen", "after"),
    [
        ("text_to_video", (), {}, 17 * "* ", 17),
        ("edit", (LONG,), {}, 9 * "~ ", 9),
        ("image_to_video", (LONG,), {}, "1 " + 16 * "* ", 17),
        ("forward", (LONG,), {}, "4 5 6 7 8 9 10 11 12 " + 8 * "* ", 20),
        ("backward", (LONG,), {}, 16 * "* " + "1", 28),
        ("join", (LONG, OTHER), {}, "8 9 10 11 12 " + 11 * "* " + "21", 35),
        (
            "join",
            (LONG, OTHER),
            {"frames": 7, "keep": 9},
            "4 5 6 7 8 9 10 11 12" + 7 * " *" + " 21",
            31,
        ),
        ("blend", (LONG, OTHER), {}, "1 2 3 4 5 " + 7 * "~ " + "28", 17),
    ],
)
def test_with_a_causal_vae_clips_have_whole_latent_frames(
    mode: Mode, given: tuple[Tensor, ...], asked: dict[str, int], seen: str, after: int
) -> None:
    """Of 4 frames; trained on 17. A beginning of 1 + 4 k frames is seen, of an end the first."""
    shown, result = told(mode, Room(17, 4), *given, **asked)
    assert shown.replace(" 29 30 31 32", "") == seen.strip()
    assert len(result.split()) == after


@pytest.mark.parametrize(
    ("mode", "given", "asked", "message"),
    [
        ("text_to_video", (), {"frames": 16}, r"at once: 13 or 17 frames in all, not 16"),
        ("forward", (LONG,), {"frames": 6}, r"at once: 4 or 8 new frames, not 6"),
        ("backward", (LONG,), {"frames": 4}, r"at once: 8 or 12 new frames, not 4"),
        ("join", (LONG, OTHER), {"frames": 8}, r"at once: 7 or 11 new frames, not 8"),
        ("forward", (LONG,), {"keep": 4}, r"--keep 4: this model can keep 1 \+ 4 k"),
        ("blend", (LONG[:7], OTHER), {}, r"\(7 and 12 frames\) can share 3 .* not 7; mode join"),
        ("edit", (LONG,), {"frames": 13}, "12 frames are given, not 13"),
        ("text_to_image", (), {"frames": 5}, "makes 1 frame, not 5"),
    ],
)
def test_numbers_that_do_not_fit_are_refused_with_those_that_do(
    mode: Mode, given: tuple[Tensor, ...], asked: dict[str, int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        told(mode, Room(17, 4), *given, **asked)


def test_long_videos_have_as_few_levels_as_the_model_allows() -> None:
    assert Room(9).levels(9) == (9, 8, 0)
    assert Room(9).levels(10) == (3, 8, 1)
    assert Room(9).levels(65) == (9, 8, 1)
    assert Room(9).levels(66) == (3, 8, 2)
    assert Room(17, 4).levels(100) == (9, 16, 1)  # 8 keys would do: 1 + 4 k
    assert Room(3).levels(9) == (3, 2, 2)
    assert [keys_of(n, 8) for n in (1, 2, 9, 10)] == [1, 2, 2, 3]
    with pytest.raises(UserError, match="trained on clips of 1 frames"):
        Room(1).levels(9)


def test_what_a_mode_needs_is_told() -> None:
    for mode, given, message in (
        ("text_to_video", 1, "starts from nothing: leave --from out"),
        ("forward", 0, "needs a picture or video to start from: give --from once, not never"),
        ("join", 1, "needs two pictures or videos, the first and the second: give --from twice"),
        ("interpolate", 0, "as key frames: give --from once, not never"),
        ("long", 2, "a picture that it starts from: give --from at most once, not twice"),
        ("join", 3, "the first and the second: give --from at most twice, not 3 times"),
    ):
        with pytest.raises(UserError, match=message):
            check_given(check_mode(mode), given)
    with pytest.raises(UserError, match=r"no mode 'jion'.*join"):
        check_mode("jion")
    with pytest.raises(UserError, match="forward has no --between: it is of interpolate"):
        check_options("forward", between=3)
    check_options("blend", strength=0.5, keep=2, frames=3, between=None)
