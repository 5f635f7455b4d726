"""`@scorer`: a scorer from one plain function.

    @scorer("cadence", frames=Frames(every=1, short_side=128, head="4s"),
            columns={"dup_frames": column("float32", unit="share of frames")})
    def cadence(frames, *, eps: float = 0.6):
        ...

The function's positional arguments say what it is given: `frames` (a FrameBatch), `clip`
(a Clip), `video` (a VideoInfo). Its keyword-only arguments are the parameters that recipes may
set; each needs a type and a default.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, get_type_hints

from pydantic import create_model

from vidcurate.errors import OperatorError
from vidcurate.media.frames import Frames
from vidcurate.operator.base import Clip, Resources, Scorer, ScoreResult
from vidcurate.operator.columns import MAIN, Column

_GIVEN: Mapping[str, Callable[[Clip], Any]] = {
    "frames": lambda clip: clip.frames,
    "clip": lambda clip: clip,
    "video": lambda clip: clip.video,
}


def scorer(
    name: str,
    *,
    columns: Mapping[str, Column] | Column,
    frames: Frames | None = None,
    version: str = "1",
    reads: tuple[str, ...] = (),
    resources: Resources | None = None,
    extra: str = "",
) -> Callable[[Callable[..., ScoreResult]], type[Scorer]]:
    """Make a Scorer class of the decorated function.

    Args:
        name: the name that recipes use.
        columns: one Column (named as the step) or field -> Column.
        frames: the frames to be given; None where the function takes no `frames`.
        version: raise it when results change; part of the fingerprint.
        reads: columns of earlier steps that the function reads from `clip.scores`.
        resources: what one worker occupies; one CPU core by default.
        extra: the optional extra of vidcurate that the operator needs.

    Raises:
        OperatorError: the function's arguments do not fit the rules above.
    """

    def wrap(function: Callable[..., ScoreResult]) -> type[Scorer]:
        hints = get_type_hints(function, include_extras=True)
        given: list[Callable[[Clip], Any]] = []
        fields: dict[str, Any] = {}
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                if parameter.default is inspect.Parameter.empty or parameter.name not in hints:
                    raise OperatorError(
                        f"operator {name!r}: parameter {parameter.name!r} "
                        "needs a type and a default"
                    )
                fields[parameter.name] = (hints[parameter.name], parameter.default)
            elif parameter.name in _GIVEN:
                given.append(_GIVEN[parameter.name])
            else:
                raise OperatorError(
                    f"operator {name!r}: argument {parameter.name!r} is none of "
                    f"{', '.join(_GIVEN)}; parameters stand behind a bare *"
                )
            if parameter.name == "frames" and frames is None:
                raise OperatorError(
                    f"operator {name!r} takes frames but declares none (frames=...)"
                )

        declared = {MAIN: columns} if isinstance(columns, Column) else dict(columns)

        def request(self: Scorer) -> Frames | None:
            return frames

        def score(self: Scorer, clip: Clip) -> ScoreResult:
            parameters = {field: getattr(self, field) for field in fields}
            return function(*(get(clip) for get in given), **parameters)

        class Base(Scorer):
            name: ClassVar[str]

        made = create_model(
            "".join(part.title() for part in name.split("_")),
            __base__=Base,
            __module__=function.__module__,
            __doc__=function.__doc__,
            **fields,
        )
        made.name = name
        made.version = version
        made.columns = declared
        made.reads = reads
        made.extra = extra
        if resources is not None:
            made.resources = resources
        made.request = request  # type: ignore[method-assign]
        made.score = score  # type: ignore[method-assign]
        return made

    return wrap
