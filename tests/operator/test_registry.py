# ruff: noqa: E501 (tables of mistakes read better with one a line)

import subprocess
import sys

import pytest

from vidcurate.errors import OperatorError
from vidcurate.operator import registry
from vidcurate.operator.base import Scorer

OWN = '''\
from vidcurate import column, scorer

@scorer("own", columns=column("float32"){more})
def own(clip):
    """Ours."""
    return {value}
'''


def own(value="1.0", more=""):
    return OWN.format(value=value, more=more)


def test_a_built_in_operator_is_found_by_its_file():
    motion = registry.get("motion", "scorer")
    assert issubclass(motion, Scorer)
    assert motion.__module__ == "vidcurate.operators.score.motion"
    assert registry.get("motion") is motion
    assert registry.origin(motion) == "built-in"
    assert registry.fingerprint_version(motion) == motion.version


def test_only_the_asked_file_is_imported():
    code = (
        "import sys; from vidcurate.operator import registry; registry.get('brightness', 'scorer')\n"
        "print([m for m in sys.modules if m.startswith('vidcurate.operators.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (
        "['vidcurate.operators.score', 'vidcurate.operators.score.brightness']"
    )


def test_every_built_in_operator_is_declared_well():
    """`get` checks each: name, docstring, columns, parameters."""
    for kind in registry.SECTIONS:
        for name in registry.names(kind):
            assert registry.get(name, kind).name == name
    assert {"motion", "technical"} <= set(registry.names("scorer")) <= set(registry.names())
    assert "scenes" not in registry.names("scorer")


def test_unknown_names():
    with pytest.raises(OperatorError, match=r"unknown scorer 'motoin'; did you mean 'motion'\?"):
        registry.get("motoin", "scorer")
    with pytest.raises(OperatorError, match=r"unknown operator 'scenez'; did you mean 'scenes'\?"):
        registry.get("scenez")
    with pytest.raises(OperatorError, match="'scenes' is a splitter, not an editor"):
        registry.get("scenes", "editor")


def test_a_users_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(own())
    (operator,) = registry.load_file(file)
    assert registry.get("own", "scorer") is operator
    assert "own" in registry.names("scorer")
    assert registry.origin(operator) == str(file)
    assert operator.__module__.startswith("vidcurate_user_")
    assert "mine" not in sys.modules
    assert registry.load_file(file) == [operator]


def test_the_text_of_a_file_is_part_of_the_version(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(own())
    (first,) = registry.load_file(file)
    version = registry.fingerprint_version(first)
    assert version.startswith("1+")
    file.write_text(own("2.0"))
    (second,) = registry.load_file(file)
    assert registry.get("own") is second
    assert second().score(None) == 2.0
    assert registry.fingerprint_version(second) != version


def test_texts_travel_to_another_process(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(own("7.0"))
    registry.load_file(file)
    users = registry.user_operators()
    assert users.texts == ((str(file), own("7.0")),)
    file.unlink()
    code = (
        "import sys; from vidcurate.operator.registry import UserOperators, get, fingerprint_version\n"
        f"UserOperators({users.texts!r}).install()\n"
        "print(get('own')().score(None), fingerprint_version(get('own')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["7.0", registry.fingerprint_version(registry.get("own"))]


def test_several_operators_of_one_file_and_imported_ones(tmp_path):
    file = tmp_path / "two.py"
    file.write_text(
        "from vidcurate.operators.score.motion import motion\n"
        + own()
        + own().replace("own", "other").split("scorer\n", 1)[1]
    )
    assert [o.name for o in registry.load_file(file)] == ["own", "other"]


def test_clashes():
    registry.install(own(), "a.py")
    with pytest.raises(OperatorError, match=r"b\.py: the name 'own' is already defined by a\.py"):
        registry.install(own("3.0"), "b.py")
    with pytest.raises(OperatorError, match=r"c\.py: the name 'motion' belongs to a built-in"):
        registry.install(own().replace('"own"', '"motion"'), "c.py")
    assert registry.install(own(), "copy/of/a.py")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ndef f(:\n", r"bad\.py:2: SyntaxError: invalid syntax"),
        ("import nothing_of_that_name", r"bad\.py:1: ModuleNotFoundError: No module named"),
        ("\n\ny = z", r"bad\.py:3: NameError: name 'z' is not defined"),
        ("from vidcurate import nonsense", r"bad\.py:1: ImportError: cannot import name"),
        ("1 / 0", r"bad\.py:1: ZeroDivisionError"),
        ("x = 1", r"bad\.py defines no operator; decorate a function"),
        (own().replace('"own"', '"Own"'), r"operator 'Own': its name must be lower case"),
        (own().replace('    """Ours."""\n', ""), "operator 'own' has no docstring"),
        (own().replace('column("float32")', "{}"), "operator 'own' declares no columns"),
        (own().replace('column("float32")', '{"A b": column("float32")}'), "the field 'A b' must be"),
        (own().replace('column("float32")', '{"gate": column("float32")}'), "'gate' has the name of a"),
        (own().replace("clip)", "clip, *, min: float = 1)"), "its parameter 'min' has the name of a key"),
        (own().replace("clip)", "clip, *, id: str = '')"), "its parameter 'id' has the name of a key"),
        (
            own()
            .replace('column("float32")', '{"x": column("float32")}')
            .replace("clip)", "clip, *, x: float = 1)"),
            "its parameter 'x' has the name of a column's field",
        ),
        (own(more=", version=''"), "version must be text"),
        (own().replace("clip)", "clip, gain)"), r"bad\.py:3: operator 'own': argument 'gain' is none of"),
        (own().replace('"float32"', '"float16"'), r"bad\.py:3: unknown column type 'float16'"),
        (
            "from vidcurate import Scorer, column\nclass Bare(Scorer):\n    'Ours.'\n"
            "    name = 'bare'\n    columns = {'': column('bool')}\n",
            "operator 'bare' defines no score or score_batch method",
        ),
    ],
)  # fmt: skip
def test_mistakes_in_a_users_file(tmp_path, text, message):
    file = tmp_path / "bad.py"
    file.write_text(text)
    with pytest.raises(OperatorError, match=message) as caught:
        registry.load_file(file)
    assert str(file) in str(caught.value)
    assert registry.user_operators().texts == ()


def test_a_kind_without_its_method():
    text = (
        "from typing import ClassVar\nfrom vidcurate import Splitter\n"
        "class Bare(Splitter):\n    'Ours.'\n    name: ClassVar[str] = 'bare'\n"
    )
    with pytest.raises(OperatorError, match="'bare' defines no detector or known method"):
        registry.install(text, "bare.py")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(OperatorError, match="cannot read the operator file"):
        registry.load_file(tmp_path / "no.py")


PACKAGE = "from importlib.metadata import version\n" + own().replace('"own"', '"packed"')


@pytest.fixture
def package(tmp_path, monkeypatch):
    """package("packed = mod:own") is an installed package with that entry point."""

    def install(entry):
        (tmp_path / "packed_mod.py").write_text(PACKAGE)
        info = tmp_path / "packed_operators-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: packed-operators\nVersion: 1.0\n"
        )
        (info / "entry_points.txt").write_text(f"[vidcurate.operators]\n{entry}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(registry, "_entry", {})

    return install


def test_an_installed_package(package):
    package("packed = packed_mod:own")
    assert registry.get("packed", "scorer")().score(None) == 1.0
    assert "packed" in registry.names("scorer")
    assert registry.origin(registry.get("packed")) == "package packed-operators"
    with pytest.raises(OperatorError, match="belongs to an installed package's operator"):
        registry.install(own().replace('"own"', '"packed"'), "a.py")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("packed = packed_mod:nothing", "package packed-operators: its operator 'packed' cannot be"),
        ("packed = no_such_module:x", "cannot be imported .*; mend, upgrade or uninstall the package"),
        ("packed = packed_mod:version", "the entry point 'packed' is no operator class"),
        ("other = packed_mod:own", "the entry point 'other' gives the operator 'packed'"),
    ],
)  # fmt: skip
def test_a_broken_package(package, entry, message):
    package(entry)
    with pytest.raises(OperatorError, match=message):
        registry.get(entry.split()[0])


def test_packages_of_extras():
    assert registry.missing_packages("") == []
    assert registry.missing_packages("no such extra") == []
