"""The modes of `vidcurate sample`: what each needs, and how given clips are laid out for it.

All are in frames of video (T, 3, H, W), whatever the model knows; a causal VAE (see `coding`) says
how many can be kept and made. Given clips stay in levels of 0..255, since they may be long; what
the model sees of them is in -1..1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from vidcurate.errors import UserError
from vidcurate.nearest import suggest
from vidcurate.train.sampling import starts
from vidcurate.train.sampling.starts import Start

Mode = Literal[
    "text_to_video",
    "text_to_image",
    "image_to_video",
    "forward",
    "backward",
    "loop",
    "join",
    "blend",
    "interpolate",
    "long",
    "edit",
]

NEEDS: dict[Mode, tuple[int, int | None, str]] = {
    "text_to_video": (0, 0, "a prompt alone"),
    "text_to_image": (0, 0, "a prompt alone"),
    "image_to_video": (1, 1, "a picture or video to start from"),
    "forward": (1, 1, "a picture or video to start from"),
    "backward": (1, 1, "a picture or video to end with"),
    "loop": (1, 1, "a picture or video to start from, and come back to"),
    "join": (2, 2, "two pictures or videos, the first and the second"),
    "blend": (2, 2, "two videos, the first and the second"),
    "interpolate": (1, None, "a video, or two pictures or more, as key frames"),
    "long": (0, 1, "a prompt alone, or a picture that it starts from"),
    "edit": (1, 1, "a picture or video to change"),
}
"""Fewest and most things that are given, and in words."""

_OF: dict[str, tuple[Mode, ...]] = {
    "frames": tuple(mode for mode in get_args(Mode) if mode != "interpolate"),
    "keep": ("forward", "backward", "loop", "join", "blend"),
    "between": ("interpolate",),
    "strength": ("edit", "blend"),
}


def check_mode(text: str) -> Mode:
    """The mode of a name.

    Raises:
        UserError: there is none.
    """
    for mode in get_args(Mode):
        if text == mode:
            return cast(Mode, mode)
    raise UserError(f"no mode {text!r}{suggest(text, get_args(Mode))}")


def check_given(mode: Mode, given: int) -> None:
    """Look whether a mode can do with so many things.

    Raises:
        UserError: it cannot; names what it needs.
    """
    least, most, needs = NEEDS[mode]
    if given >= least and (most is None or given <= most):
        return
    if most == 0:
        raise UserError(f"{mode} starts from nothing: leave --from out, or give another mode")
    wanted = _times(least) if given < least else f"at most {_times(most or 0)}"
    raise UserError(f"{mode} needs {needs}: give --from {wanted}, not {_times(given)}")


def check_options(mode: Mode, **given: object) -> None:
    """Look whether options that are not None are of use in a mode.

    Raises:
        UserError: one is not; names the modes that it is of.
    """
    for name, value in given.items():
        modes = _OF[name]
        if value is not None and mode not in modes:
            raise UserError(f"{mode} has no --{name}: it is of {', '.join(modes)}")


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")


@dataclass(frozen=True)
class Room:
    """How many frames a model knows and can take.

    frames: of the clips that it was trained on. every: frames in a latent frame of a causal VAE,
    else 1.
    """

    frames: int
    every: int = 1

    def whole(self, mode: str, asked: int | None, most: int | None = None) -> int:
        """Frames of a clip: 1 + every * k; where nobody asks, as in training, or up to `most`.

        Raises:
            UserError: what is asked for does not fit.
        """
        usual = self.frames if most is None else min(most, self.frames)
        return self._fit(mode, asked, usual, 1, 1, "frames in all")

    def new(self, mode: str, asked: int | None, kept: int, *, after: bool, before: bool) -> int:
        """New frames beside `kept` ones that are given before them, after them, or both.

        Raises:
            UserError: what is asked for does not fit.
        """
        over = -1 if before and after else 0
        # Before a last frame that is encoded alone at least a latent frame must be new.
        least = max(1, (2 if after else 1) * self.every + over) if self.every > 1 else 1
        return self._fit(mode, asked, self.frames - kept, over, least, "new frames")

    def kept(self, asked: int | None, new: int | None, sides: int, most: int) -> int:
        """Frames of a given clip that the model sees beside new ones, as it was trained to.

        Args:
            asked: by the user. new: frames that are wanted. sides: of these that are given.
            most: frames that there are.

        Raises:
            UserError: what is asked for does not fit.
        """
        if asked is not None and (asked < 1 or (asked - 1) % self.every):
            form = f"1 + {self.every} k" if self.every > 1 else "at least 1"
            raise UserError(f"--keep {asked}: this model can keep {form} of the given frames")
        free = self.frames - (self.frames // (sides + 1) if new is None else new)
        count = min(most, max(1, free // sides) if asked is None else asked)
        return 1 + (count - 1) // self.every * self.every

    def levels(self, frames: int) -> tuple[int, int, int]:
        """(key frames, frames from one to the next, times that gaps are filled) of a long video.

        Key frames fill a clip that the model knows, as each filled gap does.

        Raises:
            UserError: clips of the model have no room between two ends.
        """
        if self.frames < 3:
            raise UserError(
                f"long: this model was trained on clips of {self.frames} frames; filling the gap "
                "between two takes 3 or more"
            )
        step = 1 + self.new("long", None, 2, after=True, before=True)
        count = 0
        while keys_of(frames, step**count) > self.frames:
            count += 1
        keys = keys_of(frames, step**count)
        return 1 + _over(keys - 1, self.every) * self.every, step, count

    def _fit(
        self, mode: str, asked: int | None, usual: int, over: int, least: int, what: str
    ) -> int:
        every = self.every
        if asked is None:
            return max(least, (usual - over) // every * every + over)
        if asked >= least and (asked - over) % every == 0:
            return asked
        if every == 1:
            raise UserError(f"{mode}: at least {least} {what}, not {asked}")
        below = max(least, (asked - over) // every * every + over)
        raise UserError(
            f"{mode}: this model's VAE makes {every} frames at once: {below} or {below + every} "
            f"{what}, not {asked}"
        )


def keys_of(frames: int, step: int) -> int:
    """Key frames, each `step` frames after the one before, that so many frames lie between."""
    return 1 + _over(frames - 1, step)


def _over(number: int, by: int) -> int:
    """Divided, rounded up."""
    return -(-number // by)


@dataclass(frozen=True)
class Laid:
    """A start, and frames of the given clips that stand before and after it in the result.

    before, after: as they were given. dropped: frames at the end of what is made that are not in
    the result.
    """

    start: Start
    before: Tensor
    after: Tensor
    dropped: int = 0

    def result(self, made: Tensor) -> Tensor:
        """The whole clip, (T, 3, H, W), of what was made in the levels of the given clips."""
        return torch.cat([self.before, made[: len(made) - self.dropped], self.after])


@dataclass(frozen=True)
class Wish:
    """What is asked for, but for prompt and seed.

    given: clips uint8 (T, 3, H, W) of one size. frames: of the result of a mode that makes a
    clip, new ones of one that goes on from given ones, frames that both clips share in a blend.
    keep: frames of a given clip that the model sees beside the new ones. None: as the model was
    trained. fps: of the result. strength: of edit and blend, how much is made anew.
    """

    mode: Mode
    given: Sequence[Tensor]
    size: tuple[int, int]
    fps: float
    frames: int | None = None
    keep: int | None = None
    strength: float | None = None

    def laid(self, room: Room) -> Laid:
        """What one clip of the sampler is made from; of all modes but interpolate and long.

        Raises:
            UserError: what does not fit together.
        """
        check_given(self.mode, len(self.given))
        if not self.given:
            return self._nothing(room)
        return self._two(room) if len(self.given) == 2 else self._one(room)

    def _nothing(self, room: Room) -> Laid:
        if self.mode == "text_to_image" and self.frames not in (None, 1):
            raise UserError(f"text_to_image makes 1 frame, not {self.frames}; try text_to_video")
        count = 1 if self.mode == "text_to_image" else room.whole(self.mode, self.frames)
        width, height = self.size
        return _alone(starts.text_to_video((count, 3, height, width), self.fps))

    def _one(self, room: Room) -> Laid:
        (clip,) = self.given
        mode, fps = self.mode, self.fps
        if mode == "image_to_video":
            return _alone(starts.image_to_video(seen(clip[0]), room.whole(mode, self.frames), fps))
        if mode == "edit":
            count = room.whole(mode, self.frames, len(clip))
            if count > len(clip):
                raise UserError(f"edit: {len(clip)} frames are given, not {count}")
            strength = 0.6 if self.strength is None else self.strength
            return _alone(starts.edit(seen(clip[:count]), strength, fps))
        kept = room.kept(self.keep, self.frames, 2 if mode == "loop" else 1, len(clip))
        if mode == "loop":
            new = room.new(mode, self.frames, 2 * kept, after=True, before=True)
            start = starts.join(seen(clip[-kept:]), seen(clip[:kept]), new, fps)
            return Laid(start, clip[:-kept], clip[:0], dropped=kept)
        if mode == "forward":
            new = room.new(mode, self.frames, kept, after=False, before=True)
            return Laid(starts.forward(seen(clip[-kept:]), new, fps), clip[:-kept], clip[:0])
        kept = kept if room.every == 1 else 1
        new = room.new(mode, self.frames, kept, after=True, before=False)
        return Laid(starts.backward(seen(clip[:kept]), new, fps), clip[:0], clip[kept:])

    def _two(self, room: Room) -> Laid:
        first, second = self.given
        if self.mode == "join":
            kept = room.kept(self.keep, self.frames, 2, len(first))
            then = room.kept(self.keep, self.frames, 2, len(second)) if room.every == 1 else 1
            new = room.new("join", self.frames, kept + then, after=True, before=True)
            start = starts.join(seen(first[-kept:]), seen(second[:then]), new, self.fps)
            return Laid(start, first[:-kept], second[then:])
        # A causal VAE needs a frame of either clip beside those that are both.
        most = min(len(first), len(second)) - (room.every > 1)
        most -= (most + 1) % room.every
        usual = room.new("blend", None, 2 * (room.frames // 3), after=True, before=True)
        usual = max(min(usual, most), 2 * room.every - 1)
        shared = room.new("blend", self.frames or usual, 0, after=True, before=True)
        if shared > most:
            raise UserError(
                f"blend: the clips ({len(first)} and {len(second)} frames) can share {most} frames "
                f"at most, not {shared}; mode join makes new ones between them"
            )
        head, tail = (
            room.kept(self.keep, shared, 2, len(clip) - shared) if len(clip) > shared else 0
            for clip in (first, second)
        )
        start = starts.blend(
            seen(first[len(first) - shared - head :]),
            seen(second[: shared + tail]),
            shared,
            self.fps,
            0.8 if self.strength is None else self.strength,
        )
        return Laid(start, first[: len(first) - shared - head], second[shared + tail :])


def _alone(start: Start) -> Laid:
    nothing = start.latent[:0].to(torch.uint8)
    return Laid(start, nothing, nothing)


def seen(clip: Tensor) -> Tensor:
    """Levels of 0..255 as models know them: float32 in -1..1."""
    return clip.float() / 127.5 - 1
