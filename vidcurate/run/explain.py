"""What `vidcurate plan` shows: stages, frame requests, and what would run again and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vidcurate.media.frames import Frames
from vidcurate.operator.base import Editor, Scorer, Splitter
from vidcurate.plan import fingerprints, requests_of
from vidcurate.recipe.model import Recipe, Step
from vidcurate.run import tables, todo
from vidcurate.run.record import read_record


def explain(recipe: Recipe) -> dict[str, Any]:
    """The plan of a recipe as plain values.

    Gives `stages` (pass, what), `steps` (step, operator, frames, fingerprint, todo) and `work`:
    sentences that say what the run directory lacks.
    """
    prints = fingerprints(recipe)
    survey = None
    if read_record(recipe.output) is not None:
        with tables.open(recipe.output) as run:
            survey = todo.survey(run, recipe)
    return {
        "output": str(Path(recipe.output)),
        "stages": _stages(recipe),
        "steps": [
            {
                "step": step.id,
                "operator": step.operator.name,
                "frames": _frames(step),
                "fingerprint": prints.get(step.id, prints["edit" if _edits(step) else "split"]),
                "todo": _todo(step, survey),
            }
            for step in (*recipe.split, *recipe.edit, *recipe.score)
        ],
        "work": _work(recipe, survey),
    }


def _edits(step: Step) -> bool:
    return isinstance(step.operator, Editor)


def _stages(recipe: Recipe) -> list[dict[str, str]]:
    requests = requests_of([s.operator for s in recipe.score if isinstance(s.operator, Scorer)])
    looks = any(e.request() is not None for e in recipe.editors)
    decode = "one decode of each video"
    if looks and recipe.score:
        decode += ", and a second of the clips that get a crop"
    stages = [
        {
            "pass": "score",
            "what": f"{decode}: {len(recipe.split)} split, {len(recipe.edit)} edit, "
            f"{len(recipe.score)} score steps from {len(requests)} distinct frame requests; "
            f"executor {recipe.executor}, media {recipe.media}",
        }
    ]
    stages += [
        {"pass": "select", "what": f"selection {name}: {chosen.where or 'all that pass'}"}
        for name, chosen in recipe.select.items()
    ]
    if recipe.pack is not None:
        how = "copied" if recipe.pack.encode == "copy" else f"encoded ({recipe.pack.encode.codec})"
        stages.append({"pass": "pack", "what": f"clips {how} into tar shards"})
    return stages


def _frames(step: Step) -> str:
    operator = step.operator
    request: Frames | None = None
    if isinstance(operator, Splitter | Editor | Scorer):
        request = operator.request()
    parts = [f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in _shown(request)]
    if isinstance(operator, Scorer) and operator.motion_vector_fps() is not None:
        parts.append(f"motion vectors at {operator.motion_vector_fps():g} fps")
    return ", ".join(parts) or "none"


def _shown(request: Frames | None) -> list[tuple[str, Any]]:
    return list(request.describe().items()) if request is not None else []


def _todo(step: Step, survey: todo.Todo | None) -> str:
    if survey is None:
        return "all"
    if not isinstance(step.operator, Scorer):
        return f"{len(survey.resplit)} videos" if survey.resplit else "nothing"
    n = survey.reasons.get(step.id, 0)
    return f"{n} clips" if n else "nothing"


def _work(recipe: Recipe, survey: todo.Todo | None) -> list[str]:
    if survey is None:
        return [f"{recipe.output} does not exist yet: all videos are new"]
    lines = [f"{len(survey.videos)} videos are known in {recipe.output}; others are new"]
    if survey.resplit:
        lines.append(
            f"{len(survey.resplit)} videos are split again: the split steps, the profile or the "
            "sampling rules have changed since"
        )
    for step, n in survey.reasons.items():
        lines.append(f"{n} clips need {step}: they have no result of its current fingerprint")
    if survey.unfinished:
        lines.append(f"{len(survey.unfinished)} videos were not finished and go on")
    if len(lines) == 1:
        lines.append("nothing of the known videos needs to run again")
    return lines
