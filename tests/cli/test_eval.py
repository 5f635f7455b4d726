"""Mistakes on the command line of `vidcurate eval`; what it does is in tests/train/evaluation."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "nothing to evaluate: give a training's output, or --generated"),
        (("out", "--metrics", "fdv"), "no metric 'fdv'; did you mean 'fvd'?"),
        (("out", "--mode", "join"), "--mode join: text_to_video or image_to_video"),
        (("{tmp}/absent",), "holds no checkpoint"),
        (("--generated", "{tmp}/absent", "--metrics", "motion"), "there is no folder"),
        (("--generated", "{tmp}", "--metrics", "motion"), "holds no videos"),
    ],
)
def test_mistakes_are_told_with_the_remedy(command, tmp_path, arguments, said):
    result = command("eval", *(a.replace("{tmp}", str(tmp_path)) for a in arguments))
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.output.split())
