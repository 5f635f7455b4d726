import json
import os
import signal
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import vidcurate
from vidcurate.errors import RunDirectoryError
from vidcurate.run.commit import ROWS, Committer
from vidcurate.run.lease import Lease
from vidcurate.run.manifest import Manifest, publish, read_manifests, write_part
from vidcurate.run.record import RunRecord, read_record


def rows(*ids, **columns):
    return pa.table({"clip_id": list(ids), **columns})


def ids(out, table="vectors"):
    with vidcurate.open(out) as run:
        return sorted(run.sql(f"SELECT clip_id FROM {table}")["clip_id"].to_pylist())


def test_a_part_exists_only_once_a_manifest_names_it(tmp_path):
    with Lease(tmp_path) as lease:
        committer = Committer(lease)
        first = write_part(tmp_path, "vectors", rows("a", "b"))
        write_part(tmp_path, "vectors", rows("lost"))
        manifest = committer.commit("score", {"vectors": [first]})
        assert manifest.seq == 1
        assert (first.rows, first.bytes) == (2, (tmp_path / first.path).stat().st_size)
        assert ids(tmp_path) == ["a", "b"]
        assert committer.commit("score", {"vectors": []}, retire={"vectors": []}) is None
    assert [m.pass_name for m in read_manifests(tmp_path)] == ["score"]
    assert (
        pq.ParquetFile(tmp_path / first.path).metadata.row_group(0).column(0).compression == "ZSTD"
    )


KILLED = """
import os, signal, sys
from pathlib import Path
import pyarrow as pa
from vidcurate.run.lease import Lease
from vidcurate.durable import TEMP
from vidcurate.run.manifest import write_part
out = Path(sys.argv[1])
with Lease(out):
    write_part(out, "vectors", pa.table({"clip_id": ["never"]}))
    (out / "vectors" / f"{TEMP}half").write_bytes(b"PAR1")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_before_the_manifest_leaves_only_what_clean_removes(tmp_path):
    with Lease(tmp_path) as lease:
        Committer(lease).commit("score", {"vectors": [write_part(tmp_path, "vectors", rows("a"))]})
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path / "vectors")) == 3
    assert ids(tmp_path) == ["a"]
    (tmp_path / f"{ROWS}dead").mkdir()
    (tmp_path / f"{ROWS}dead" / "rows.duckdb").write_bytes(b"x")
    with Lease(tmp_path) as lease:  # the dead process holds it no more
        committer = Committer(lease)
        assert committer.clean() == 2
        assert not list(tmp_path.glob(f"{ROWS}*"))
        part = write_part(tmp_path, "vectors", rows("b"))
        assert committer.commit("score", {"vectors": [part]}).seq == 2
    assert ids(tmp_path) == ["a", "b"]
    assert len(os.listdir(tmp_path / "vectors")) == 2


def test_retired_ids_are_dead_in_earlier_parts_and_live_in_their_own(tmp_path):
    with Lease(tmp_path) as lease:
        committer = Committer(lease)

        def commit(table, retire=()):
            part = write_part(tmp_path, "vectors", table)
            committer.commit("score", {"vectors": [part]}, {"vectors": retire})

        commit(rows("a", "b", "c", v=[1, 1, 1]))
        commit(rows("b", v=[2]), retire=["b"])
        commit(rows("d", v=[3]))
        commit(rows("b", v=[4]), retire=["b", "d"])
        committer.commit("score", {}, {"vectors": pa.array(["c"])})
    with vidcurate.open(tmp_path) as run:
        found = run.sql("SELECT clip_id, v FROM vectors ORDER BY clip_id").to_pylist()
    assert found == [{"clip_id": "a", "v": 1}, {"clip_id": "b", "v": 4}]
    with Lease(tmp_path) as lease:
        assert Committer(lease).clean() == 0  # the files of retired ids are named too


def test_manifests_are_never_overwritten(tmp_path):
    publish(tmp_path, Manifest(1, "score"))
    with pytest.raises(RunDirectoryError, match="written by another process"):
        publish(tmp_path, Manifest(1, "group"))
    assert [m.pass_name for m in read_manifests(tmp_path)] == ["score"]
    assert os.listdir(tmp_path / "manifests") == ["00000001.json"]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda text: text[: len(text) // 2], "damaged"),
        (lambda text: "[]", "damaged"),
        (lambda text: text.replace('"seq": 2', '"seq": 7'), "number 7"),
        (lambda text: text.replace('"vectors"', '"../x"'), "unknown table"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 99'), "newer"),
        (lambda text: text.replace('"rows"', '"rose"'), "damaged"),
        (None, "00000002.json is missing"),
    ],
)
def test_a_damaged_manifest_is_named(tmp_path, harm, said):
    with Lease(tmp_path) as lease:
        committer = Committer(lease)
        for name in "abc":
            committer.commit("score", {"vectors": [write_part(tmp_path, "vectors", rows(name))]})
    file = tmp_path / "manifests" / "00000002.json"
    if harm is None:
        file.unlink()
    else:
        file.write_text(harm(file.read_text()))
    with pytest.raises(RunDirectoryError, match=f"00000002.json.*{said}|{said}"):
        vidcurate.open(tmp_path)


def test_a_part_that_is_cut_short_or_gone_is_named(tmp_path):
    with Lease(tmp_path) as lease:
        part = write_part(tmp_path, "vectors", rows("a"))
        Committer(lease).commit("score", {"vectors": [part]})
    file = tmp_path / part.path
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(RunDirectoryError, match=f"{file.name} has {part.bytes - 10} bytes"):
        vidcurate.open(tmp_path)
    file.unlink()
    with pytest.raises(RunDirectoryError, match="No such file"):
        vidcurate.open(tmp_path)


def test_what_cannot_be_written_says_so_and_leaves_nothing(tmp_path):
    (tmp_path / "vectors").write_text("in the way")
    with pytest.raises(RunDirectoryError, match=r"cannot be written \(File exists\)"):
        write_part(tmp_path, "vectors", rows("a"))
    assert os.listdir(tmp_path) == ["vectors"]


def test_urls_and_foreign_folders_are_refused(tmp_path):
    with pytest.raises(RunDirectoryError, match="local or shared file system"):
        vidcurate.open("s3://bucket/out")
    with pytest.raises(RunDirectoryError, match="does not exist"):
        vidcurate.open(tmp_path / "nowhere")
    with pytest.raises(RunDirectoryError, match="no run directory"):
        vidcurate.open(tmp_path)


def test_the_record_comes_back_as_written(tmp_path):
    assert read_record(tmp_path) is None
    record = RunRecord("demo", "running", {"source": {"folder": {"path": "${HOME}"}}})
    record.fingerprints["motion"] = "f00"
    record.passes["score"] = {"videos": 3, "cpu_s": 1.5}
    record.write(tmp_path)
    record.state = "done"
    record.write(tmp_path)
    assert read_record(tmp_path) == record
    assert os.listdir(tmp_path) == ["run.json"]


@pytest.mark.parametrize("text", ["{", "{}", "[]", json.dumps({"schema_version": 99})])
def test_a_damaged_record_is_named(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunDirectoryError, match=r"run\.json is (damaged|of a newer)"):
        read_record(tmp_path)
