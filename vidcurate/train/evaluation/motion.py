"""Motion scores of clips in memory, by the same scorers, and the same pass, as those of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from vidcurate.errors import ScoreError
from vidcurate.media.frame_files import save_frames
from vidcurate.operator.base import VideoRow
from vidcurate.plan import ScorePlan
from vidcurate.recipe.load import from_raw
from vidcurate.run.jobs import Faulty, Scored, VideoJob
from vidcurate.run.score_video import score_video
from vidcurate.train.evaluation.features import Frames

SCORERS = ("motion", "static", "cadence", "camera_motion")


@dataclass
class MotionScorer:
    """Scores one clip at a time, in this process.

    scorers: names of operators. units: of the columns that they give, those that are numbers.
    """

    scorers: tuple[str, ...] = SCORERS
    units: dict[str, str] = field(init=False)
    _plan: ScorePlan = field(init=False)
    _key: str = field(init=False)

    def __post_init__(self) -> None:
        recipe = from_raw(
            {
                "source": {"folder": {"path": "."}},
                "score": list(self.scorers),
                "output": "none",
                "media": "none",
            }
        )
        self._plan = ScorePlan.of(recipe, ())
        self._key = uuid4().hex
        self.units = {
            name: column.unit
            for step in recipe.score
            for name, column in step.outputs.items()
            if column.dtype.startswith("float")
        }

    def __call__(self, frames: Frames, fps: float) -> dict[str, float | None]:
        """The scores of a clip by column; None where a scorer has no verdict.

        The clip is written as a video (H.264 at crf 17) and read again, as clips of a run are: so
        generated and real ones go the same way.

        Raises:
            ScoreError: a scorer failed.
        """
        with TemporaryDirectory(prefix="vidcurate-eval-") as folder:
            path = Path(folder) / "clip.mp4"
            save_frames(path, frames, fps)
            job = VideoJob(
                video_id="clip",
                source_key="file:clip.mp4",
                content_id="",
                row=VideoRow(str(path), sources=("folder",)),
                path=path,
            )
            messages = list(score_video((self._key, self._plan, job)))
        faults = [m for m in messages if isinstance(m, Faulty)]
        rows = [m.row for m in messages if isinstance(m, Scored)]
        if faults or len(rows) != 1:
            why = "; ".join(f.message for f in faults) or f"{len(rows)} clips"
            raise ScoreError(f"a clip of {len(frames)} frames cannot be scored: {why}")
        return {name: rows[0][name] for name in self.units}
