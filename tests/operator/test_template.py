import os
import subprocess
import sys

import pytest

from vidcurate.errors import OperatorError
from vidcurate.operator import registry
from vidcurate.operator.template import write_template


def test_the_files_work_as_they_are(tmp_path):
    operator, test = write_template("my_score", tmp_path)
    (loaded,) = registry.load_file(operator)
    assert loaded.name == "my_score"
    assert registry.parameters(loaded)["limit"].default == 3.0
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "test_mine.py").write_text("precious")
    with pytest.raises(OperatorError, match=r"test_mine\.py is there already"):
        write_template("mine", tmp_path)
    assert not (tmp_path / "mine.py").exists()


@pytest.mark.parametrize("name", ["Mine", "my-score", "2nd", "class", "", "a/b"])
def test_names_that_cannot_be_used(tmp_path, name):
    with pytest.raises(OperatorError, match="cannot name an operator"):
        write_template(name, tmp_path)


def test_a_name_that_is_taken(tmp_path):
    with pytest.raises(OperatorError, match="the name 'motion' belongs to another operator"):
        write_template("motion", tmp_path)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OperatorError, match=r"cannot write .*No such file"):
        write_template("mine", tmp_path / "no")
