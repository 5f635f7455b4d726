"""`vidcurate sample`: what is asked for, what is written, and what is told."""

from __future__ import annotations

import numpy as np
import pytest

from vidcurate.media.frame_files import load_frames, save_frames

FEW = ("--steps", "1", "--guidance", "1", "--device", "cpu")


def moving(frames, color, size=(32, 32)):
    video = np.full((frames, *size, 3), 30, np.uint8)
    for i in range(frames):
        video[i, 8:24, i : i + 12] = color
    return video


@pytest.fixture(scope="module")
def trained(checkpoint):
    import torch

    torch.set_num_threads(1)
    return checkpoint("trained")


@pytest.fixture
def files(tmp_path):
    save_frames(tmp_path / "red.mp4", moving(6, (220, 40, 40)), 8)
    save_frames(tmp_path / "fast.mp4", moving(11, (40, 60, 220)), 16)
    for name, color in (("one", (200, 200, 40)), ("two", (20, 180, 60))):
        save_frames(tmp_path / f"{name}.png", moving(1, color), 8)
    return tmp_path


def told(result):
    assert result.exit_code == 2, result.output
    return " ".join(result.stderr.split())


def test_each_prompt_and_seed_has_a_file_of_its_own(command, trained, tmp_path):
    (tmp_path / "prompts.txt").write_text("a dog\n\n  a cat \n")
    prompts = ("--prompts", tmp_path / "prompts.txt")
    common = ("--mode", "text_to_image", "--count", 2, "--seed", 5, *FEW)
    result = command("sample", trained, *prompts, *common, "--to", tmp_path / "a.png", "--batch", 3)
    assert result.exit_code == 0, result.output
    names = [f"a-{i:03d}.png" for i in range(4)]
    assert sorted(p.name for p in tmp_path.glob("*.png")) == names
    assert result.output.split() == [
        word for n in names for word in ("1", "frames:", str(tmp_path / n))
    ]
    one = ("--prompt", "a cat", "--mode", "text_to_image", "--seed", 5, *FEW)
    assert command("sample", trained, *one, "--to", tmp_path / "b.png").exit_code == 0
    third, alone = (load_frames(tmp_path / n)[0].astype(int) for n in ("a-002.png", "b.png"))
    assert np.abs(third - alone).max() <= 1


@pytest.mark.parametrize(
    ("options", "frames", "fps"),
    [
        (("--frames", 3), 3, 8),
        (("--from", "one.png", "--frames", 4), 4, 8),  # a picture: image to video
        (("--from", "red.mp4", "--frames", 2), 8, 8),  # a video goes on
        (("--from", "fast.mp4", "--frames", 2), 8, 8),  # thinned from 11 frames at 16 to 6 at 8
        (("--from", "fast.mp4", "--frames", 2, "--fps", 16), 13, 16),
        (("--from", "red.mp4", "--mode", "backward", "--frames", 2), 8, 8),
        (("--from", "red.mp4", "--mode", "loop", "--frames", 2), 8, 8),
        (("--from", "red.mp4", "--from", "fast.mp4", "--mode", "join", "--frames", 2), 14, 8),
        (("--from", "red.mp4", "--from", "fast.mp4", "--mode", "blend", "--frames", 3), 9, 8),
        (("--from", "red.mp4", "--mode", "interpolate"), 11, 16),
        (
            ("--from", "one.png", "--from", "two.png", "--mode", "interpolate", "--between", 3),
            5,
            8,
        ),
        (("--mode", "long", "--frames", 12), 12, 8),
        (("--from", "red.mp4", "--mode", "edit", "--strength", 0.5), 6, 8),
    ],
)
def test_modes_of_what_is_given(command, trained, files, monkeypatch, options, frames, fps):
    monkeypatch.chdir(files)
    result = command("sample", trained, *options, *FEW, "--to", "made.mp4")
    assert result.exit_code == 0, result.output
    assert result.output.strip() == f"{frames} frames: made.mp4"
    video, rate = load_frames(files / "made.mp4")
    assert video.shape == (frames, 32, 32, 3)
    assert rate == pytest.approx(fps)


def test_given_frames_stand_where_they_belong(command, trained, files, monkeypatch):
    """As mp4 has it: near the colours that were given, and random weights make others."""
    monkeypatch.chdir(files)
    given = ("--from", "red.mp4", "--from", "fast.mp4", "--mode", "join", "--frames", 2)
    assert command("sample", trained, *given, *FEW, "--to", "made.mp4").exit_code == 0
    video = load_frames(files / "made.mp4")[0].astype(int)
    red, blue = (load_frames(files / f"{n}.mp4")[0].astype(int) for n in ("red", "fast"))
    for frame, want in [*zip(video[:6], red, strict=True), *zip(video[8:], blue[::2], strict=True)]:
        assert np.abs(frame - want).mean() < 6
    assert min(np.abs(video[6:8] - red[5]).mean(), np.abs(video[6:8] - blue[0]).mean()) > 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--from", "one.png", "--from", "two.png"), "2 times: say --mode join, blend or interp"),
        (("--mode", "join", "--from", "one.png"), "join needs two pictures or videos"),
        (("--mode", "text_to_video", "--from", "one.png"), "starts from nothing: leave --from out"),
        (("--mode", "forwards", "--from", "red.mp4"), "no mode 'forwards'"),
        (("--from", "red.mp4", "--between", 2), "forward has no --between: it is of interpolate"),
        (("--from", "red.mp4", "--fps", 30), "8 frames a second has no 30; interpolate it"),
        (("--prompt", "a", "--prompts", "p.txt"), "give --prompt or --prompts, not both"),
        (("--prompts", "none.txt"), "--prompts none.txt cannot be read"),
        (("--prompts", "empty.txt"), "holds no prompt; write one a line"),
        (("--size", "32"), "--size 32: write it as 256x144"),
        (("--size", "33x32"), "33x32 is no whole number of patches"),
        (("--to", "a.avi"), "videos are written as .mp4 or .gif"),
        (("--to", "a.png", "--frames", 4), "a picture is of one frame"),
        (("--to", "a.png", "--from", "red.mp4", "--mode", "edit"), "a picture is of one frame"),
        (("--to", "a.gif", "--fps", 60), "a GIF shows 50 frames a second at most, not 60"),
        (("--fps", "inf"), "Invalid value for '--fps'"),
        (("--seed", 2**64), "Invalid value for '--seed'"),
        (("--from", "gone.mp4"), "there is no picture or video gone.mp4"),
        (("--vae", "x"), "trained without a VAE: leave --vae out"),
        (("--solver", "rk4"), "no solver 'rk4'"),
    ],
)
def test_what_does_not_fit_is_told_and_nothing_written(
    command, trained, files, monkeypatch, options, message
):
    monkeypatch.chdir(files)
    (files / "empty.txt").write_text("\n")
    before = sorted(files.iterdir())
    assert message in told(command("sample", trained, *options, "--device", "cpu"))
    assert sorted(files.iterdir()) == before
