"""`vidcurate inspect` and `vidcurate index`, as they are called."""

import io
import json
import shutil
import tarfile

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from vidcurate.cli.main import app
from vidcurate.clip import CLIP_FIELDS
from vidcurate.media.probe import probe
from vidcurate.recipe.model import Buckets, Limits, Pack
from vidcurate.shards.pack import pack_selection

TEXTS = pa.map_(pa.string(), pa.string())
TABLE = pa.schema(
    [
        *CLIP_FIELDS,
        *(pa.field(name, pa.string()) for name in ("path", "split")),
        pa.field("captions", TEXTS),
        pa.field("scores", pa.map_(pa.string(), pa.float64())),
    ]
)


def clip(path, start, end):
    """The row of the frames start..end, at 24 a second."""
    base = probe(path, max_pixels=10**8, max_duration=3600).time_base
    return {
        "clip_id": f"{start:032}",
        "video_id": "0" * 32,
        "source": "folder",
        "audit": False,
        "start": start / 24,
        "end": end / 24,
        "start_pts": round(start / 24 / base),
        "end_pts": round(end / 24 / base),
        "time_base_num": base.numerator,
        "time_base_den": base.denominator,
        "n_frames": end - start,
        "width": 320,
        "height": 180,
        "score_status": "scored",
        "fingerprints": [],
        "scored_from": "source",
        "path": str(path),
        "split": "train",
        "captions": [("source", "a pan")],
        "scores": [("motion", 0.5)],
    }


@pytest.fixture(scope="module")
def packed(footage, tmp_path_factory):
    """A run directory with two packed selections."""
    out = tmp_path_factory.mktemp("inspect") / "out"
    rows = [clip(footage("cuts"), *span) for span in ((0, 20), (30, 48), (60, 64))]
    how = Pack(buckets=Buckets(short_side=(144,), aspect=("16:9",), frames=(1, 17)))
    for name, some in (("first", rows), ("one", rows[:1])):
        table = pa.Table.from_pylist(some, schema=TABLE)
        pack_selection(table, how, out / "shards" / name, workers=1, limits=Limits())
    return out


@pytest.fixture
def out(packed, tmp_path):
    return shutil.copytree(packed, tmp_path / "out")


@pytest.fixture
def cli():
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def test_a_run_a_selection_and_a_shard(out, cli):
    result = cli("inspect", out)
    assert result.exit_code == 0, result.output
    assert f"first  {out / 'shards' / 'first'}" in result.stdout
    assert f"one  {out / 'shards' / 'one'}" in result.stdout
    assert "motion" in result.stdout
    first = json.loads((out / "shards" / "first" / "index.json").read_text())
    (found,) = json.loads(cli("inspect", out / "shards" / "first", "--json").stdout)["selections"]
    assert found["samples"] == first["rows"] > 1
    assert {b["name"]: b["samples"] for b in found["buckets"]} == first["buckets"]
    shard = first["shards"][0]
    tar = out / "shards" / "first" / shard["path"]
    samples = json.loads(cli("inspect", tar, "--json").stdout)["samples"]
    assert len(samples) == shard["rows"]
    assert samples[0]["n_frames"] > 0
    result = cli("inspect", tar)
    assert result.exit_code == 0
    assert samples[0]["sample_id"][:20] in result.stdout


def test_verify_exits_with_1_where_something_is_wrong(out, cli):
    folder = out / "shards" / "one"
    good = cli("inspect", out, "--verify")
    assert good.exit_code == 0, good.output
    assert "verified: no problems" in good.stdout
    (shard,) = json.loads((folder / "index.json").read_text())["shards"]
    tar = folder / shard["path"]
    data = bytearray(tar.read_bytes())
    data[2000] ^= 1
    tar.write_bytes(data)
    bad = cli("inspect", out, "--verify")
    assert bad.exit_code == 1
    (sample,) = json.loads(cli("inspect", tar, "--json").stdout)["samples"]
    assert f"{tar}, sample {sample['sample_id']}, byte 512: its .mp4" in bad.stderr
    assert "verified: 1 problem" in bad.stdout
    found = json.loads(cli("inspect", folder, "--verify", "--json").stdout)
    assert [p["offset"] for p in found["problems"]] == [512]
    assert cli("inspect", tar, "--verify").exit_code == 1
    assert cli("inspect", out / "shards" / "first", "--verify").exit_code == 0
    for parquet in folder.glob("index/*"):
        parquet.write_bytes(b"PAR1")
    broken = cli("inspect", folder, "--verify")
    assert broken.exit_code == 1
    assert "the index file cannot be read" in broken.stderr
    assert cli("inspect", folder).exit_code == 2


def test_a_contact_sheet(out, cli, tmp_path):
    picture = tmp_path / "sheet.jpg"
    result = cli("inspect", out / "shards" / "first", "--sheet", picture)
    assert result.exit_code == 0, result.output
    assert "contact sheet of" in result.stdout
    assert picture.read_bytes()[:2] == b"\xff\xd8"
    result = cli("inspect", out, "--sheet", picture)
    assert result.exit_code == 2
    assert "--sheet draws one selection: name one of" in result.stderr


def test_index(footage, tmp_path, cli):
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("a", "b"):
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            for member, data in (("1.mp4", footage("static").read_bytes()), (f"{name}2.mp4", b"x")):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    cut = folder.parent / "CUT.TAR"
    cut.write_bytes((folder / "a.tar").read_bytes()[:3000])
    told = cli("inspect", cut)
    assert told.exit_code == 0
    assert f"{cut}, sample 1: cut short in '1.mp4'" in told.stderr
    assert json.loads(cli("inspect", cut, "--json").stdout)["problems"]
    alone = cli("inspect", folder / "a.tar", "--verify")
    assert alone.exit_code == 0
    assert "no index" in alone.stdout
    assert cli("inspect", folder).exit_code == 2
    result = cli("index", folder, "--val", "100%")
    assert result.exit_code == 0, result.output
    assert "2 samples in 2 shards" in result.stdout
    assert "2 of them have a key that another shard has" in result.stdout
    assert "not in the index: a.tar#a2: not a video file" in result.stderr
    result = cli("inspect", folder, "--verify")
    assert result.exit_code == 0, result.output
    assert "val 2" in result.stdout
    result = cli("inspect", folder / "a.tar")
    assert "not in the index: a.tar#a2: not a video file" in result.stderr
    assert json.loads(cli("index", folder, "--json").stdout)["samples"] == 2
    assert cli("index", folder, "--val", "much").exit_code == 2
    assert cli("index", "s3://bucket/set").exit_code == 2


def test_an_index_of_pack_is_not_replaced_unasked(out, cli):
    folder = out / "shards" / "one"
    result = cli("index", folder)
    assert result.exit_code == 2
    assert "--force replaces it" in result.stderr
    assert cli("index", folder, "--force").exit_code == 0
    assert cli("inspect", folder, "--verify").exit_code == 0


def test_a_terminal_does_not_obey_what_tars_say(footage, tmp_path, cli):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        about = json.dumps({"caption": "\x1b[2Jgone", "\x1b]0;title\x07": 1}).encode()
        mp4 = footage("static").read_bytes()
        for member, data in (("\x1b[31m.mp4", mp4), ("\x1b[31m.json", about)):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    alone = cli("inspect", tmp_path / "a.tar")
    assert cli("index", tmp_path).exit_code == 0
    shown = [cli("inspect", tmp_path), cli("inspect", tmp_path / "a.tar"), alone]
    assert not any("\x1b" in result.output for result in shown)
    assert "\\x1b[31m" in alone.stdout
    assert "\\x1b[2Jgone" in shown[1].stdout


def test_refusals(tmp_path, cli):
    for path, text in (
        (tmp_path / "none", "no such"),
        ("s3://bucket/shards", "only local paths"),
        (tmp_path, "holds no packed selection"),
    ):
        result = cli("inspect", path)
        assert result.exit_code == 2
        assert text in result.stderr
    (tmp_path / "x.mp4").touch()
    assert "is no .tar" in cli("inspect", tmp_path / "x.mp4").stderr
