import datasets
import pyarrow.parquet as pq
import pytest
import yaml

from vidcurate.errors import UserError
from vidcurate.export import huggingface
from vidcurate.export.card import escaped, public
from vidcurate.export.write import export


@pytest.fixture
def load(tmp_path):
    return lambda folder: datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))


def front(folder):
    return yaml.safe_load((folder / "README.md").read_text("utf-8").split("---\n")[1])


def test_the_library_loads_the_folder_with_its_splits(local, load, tmp_path):
    report = export(local.out, "hf", to=tmp_path / "hf")
    assert sorted(p.name for p in report.path.iterdir()) == ["README.md", "data"]
    loaded = load(report.path)
    splits = local.rows("SELECT clip_id, split FROM selection_base")
    assert {n: set(d["clip_id"]) for n, d in loaded.items()} == {
        name: {r["clip_id"] for r in splits if r["split"] == ours}
        for name, ours in (("train", "train"), ("validation", "val"))
        if any(r["split"] == ours for r in splits)
    }
    rows = {r["clip_id"]: r for d in loaded.values() for r in d}
    for clip in local.rows("SELECT * FROM clips"):
        row = rows[clip["clip_id"]]
        for name in ("start", "end", "brightness_mean", "n_frames", "source"):
            assert row[name] == clip[name]
        assert row["path"] in ("c d/e.mp4", "deep er/b,ö.mkv")


def test_lists_and_missing_values_keep_their_types(tube, load, tmp_path):
    loaded = load(export(tube.out, "hf", to=tmp_path / "hf").path)["train"]
    assert loaded.features["matching_score"].dtype == "float64"
    assert loaded.features["caption"].dtype == "string"
    captions = {r["clip_id"]: r["caption_source"] for r in tube.rows("SELECT * FROM clips")}
    assert dict(zip(loaded["clip_id"], loaded["caption"], strict=True)) == captions


def test_units_and_descriptions_are_in_the_schema_and_the_card(web, tmp_path):
    folder = export(web.out, "hf", to=tmp_path / "hf").path
    schema = pq.read_schema(next((folder / "data").iterdir()))
    ours = {k.decode(): v.decode() for k, v in schema.field("brightness_mean").metadata.items()}
    card = (folder / "README.md").read_text("utf-8").splitlines()
    row = next(line for line in card if line.startswith("| brightness\\_mean |"))
    assert row == f"| brightness\\_mean | float | {ours['unit']} | {ours['description']} |"
    assert schema.field("start").metadata[b"description"].startswith(b"seconds of source time")


def test_the_card_tells_splits_licenses_recipe_and_funnel(local, web, tmp_path):
    folder = export(web.out, "hf", to=tmp_path / "web").path
    assert front(folder) == {
        "pretty_name": "tiny",
        "license": "other",
        "size_categories": ["n<1K"],
        "tags": ["video"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": "data/train-*.parquet"}],
            }
        ],
    }
    text = (folder / "README.md").read_text("utf-8")
    assert "4 clips of 3 videos" in text
    assert "| CC-BY 4.0 \\| \\*free\\* | 1 |\n" in text
    assert "| unknown | 3 |\n" in text
    assert "    path: '.../list.csv'\n" in text
    assert "allow_hosts" not in text
    assert "\n| kept | 4 |\n" in text

    folder = export(local.out, "hf", selection="above", to=tmp_path / "two").path
    assert front(folder)["license"] == "unknown"
    text = (folder / "README.md").read_text("utf-8")
    assert "| dropped: where, technical\\_fps \\> percentile(technical\\_fps, 10) |" in text
    assert "(percentile(technical\\_fps, 10) was 24.0):" in text
    assert "    base: videos\n" in text

    folder = export(local.out, "hf", everything=True, to=tmp_path / "all").path
    text = (folder / "README.md").read_text("utf-8")
    assert "came to these clips" not in text


def test_large_splits_are_several_files(tube, load, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface, "_GROUP_ROWS", 10)
    monkeypatch.setattr(huggingface, "_FILE_ROWS", 20)
    folder = export(tube.out, "hf", to=tmp_path / "hf").path
    files = sorted((folder / "data").iterdir())
    assert [(f.name, pq.read_metadata(f).num_rows) for f in files] == [
        ("train-00000.parquet", 20),
        ("train-00001.parquet", 20),
        ("train-00002.parquet", 14),
    ]
    assert load(folder)["train"].num_rows == 54


def test_an_export_is_replaced_whole_and_nothing_else_is(local, tmp_path):
    target = tmp_path / "hf"
    export(local.out, "hf", to=target)
    with pytest.raises(UserError, match=r"is there already; choose another --to, or give --force"):
        export(local.out, "hf", to=target)
    assert export(local.out, "hf", selection="two", to=target, force=True).clips == 2
    (target / "mine.txt").write_text("x")
    with pytest.raises(UserError, match=r"holds more than an export \(mine.txt\)"):
        export(local.out, "hf", to=target, force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("/home/me/videos", ".../videos"),
        ("~/videos/", ".../videos"),
        ("~me", ".../~me"),
        ("C:\\Users\\me\\list.csv", ".../list.csv"),
        ("file:///home/me/list.csv", ".../list.csv"),
        ("https://me:pw@a.org/x.csv?sig=1", "https://a.org/x.csv?(left out)"),
        ("s3://mine/{video_id}.*", "s3://mine/{video_id}.*"),
        ("${PANDA_CSV}", "${PANDA_CSV}"),
        ("where x like '/home/me/%' and a/b > 1", "where x like '.../%' and a/b > 1"),
        ("aesthetic / 2 >= percentile(aesthetic, 20) / 2", None),
        ("16:9", None),
        (0.5, None),
    ],
)
def test_a_recipe_is_shown_without_this_machine(given, shown):
    assert public({"a": [{"b": given}]}) == {"a": [{"b": given if shown is None else shown}]}


def test_secrets_and_the_output_are_not_shown():
    recipe = {
        "output": "x",
        "source": {"hub": {"token": "hf_1", "api_key": "k", "max_tokens": "9"}},
    }
    assert public(recipe) == {
        "source": {"hub": {"token": "(left out)", "api_key": "(left out)", "max_tokens": "9"}}
    }
    assert public({"a": {"token": "${HF_TOKEN}", "output": "y"}}) == {
        "a": {"token": "${HF_TOKEN}", "output": "y"}
    }


def test_text_is_escaped_for_markdown():
    assert escaped("a|b\n<img src=x> [x](y) *z*") == r"a\|b \<img src=x\> \[x\](y) \*z\*"
