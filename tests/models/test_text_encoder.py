"""Text encoders give what transformers gives for each caption alone, without padding."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_server import COMMIT, HubServer

from vidcurate.errors import MissingExtraError, ModelError
from vidcurate.models import (
    TextTower,
    load_text_encoder,
    prepare_torchvision,
    text_encoder,
    text_encoder_config,
)

prepare_torchvision()

import torch  # noqa: E402
import transformers  # noqa: E402
from torch import Tensor  # noqa: E402

Checkpoint = Callable[..., Path]

CAPTIONS = ["A dog runs.", "", "Two people talk in a kitchen; neon signs shine in the rain.", "a"]
FAMILIES = {
    "t5": (("text_encoder",), "T5EncoderModel"),
    "umt5": (("text_encoder", "umt5", True), "UMT5EncoderModel"),
    "clip text": (("clip_text",), "CLIPTextModel"),
    "clip": (("clip_text", True), "CLIPTextModel"),
}
families = pytest.mark.parametrize("family", FAMILIES)

torch.set_num_threads(1)


def place(checkpoint: Checkpoint, family: str) -> Path:
    return checkpoint(*FAMILIES[family][0])


def rows_of(tower: TextTower, captions: list[str]) -> list[Tensor]:
    rows, offsets = tower.encode(captions)
    assert offsets.dtype == torch.int32
    assert offsets.device.type == "cpu"
    assert rows.dtype == torch.float32
    assert rows.shape == (offsets[-1], tower.width)
    return list(rows.split(offsets.diff().tolist()))


def problem(call: Callable[[], object]) -> str:
    with pytest.raises(ModelError) as error:
        call()
    return str(error.value)


@torch.no_grad()
@families
def test_rows_are_the_librarys_for_each_caption_alone(checkpoint: Checkpoint, family: str) -> None:
    folder = place(checkpoint, family)
    tower = load_text_encoder(str(folder))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = getattr(transformers, FAMILIES[family][1]).from_pretrained(folder).eval()
    found = rows_of(tower, CAPTIONS)
    assert len(found) == len(CAPTIONS)
    for caption, rows in zip(CAPTIONS, found, strict=True):
        inputs = tokenizer(caption, return_tensors="pt")
        alone = model(input_ids=inputs["input_ids"]).last_hidden_state[0]
        torch.testing.assert_close(rows, alone, atol=1e-5, rtol=1e-4)
    marks = 2 if "clip" in family else 1  # of begin and end, or of the end
    assert len(found[1]) == marks
    assert tower.width == 32
    assert tower.shortened == 0


def test_a_whole_clip_gives_its_text_towers_rows(checkpoint: Checkpoint) -> None:
    whole = load_text_encoder(str(place(checkpoint, "clip")))
    model = transformers.CLIPModel.from_pretrained(place(checkpoint, "clip")).eval()
    inputs = transformers.AutoTokenizer.from_pretrained(place(checkpoint, "clip"))(
        CAPTIONS[0], return_tensors="pt"
    )
    pooled = model.get_text_features(**inputs).pooler_output[0]
    projected = model.text_projection(rows_of(whole, CAPTIONS[:1])[0][-1])  # of the end's mark
    torch.testing.assert_close(projected, pooled, atol=1e-5, rtol=1e-4)


@families
def test_same_rows_each_time_in_the_callers_modes_without_gradient(
    checkpoint: Checkpoint, family: str
) -> None:
    tower = load_text_encoder(str(place(checkpoint, family)))
    rows, _ = tower.encode(CAPTIONS)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rows, tower.encode(CAPTIONS)[0])
    assert not rows.requires_grad
    weight = torch.ones(1, requires_grad=True)
    (rows * weight).sum().backward()  # no tensor of inference mode: a model trains on it
    assert weight.grad is not None
    assert not tower._model.training
    assert not any(p.requires_grad for p in tower._model.parameters())


def test_equal_captions_are_computed_once_and_long_ones_apart(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = load_text_encoder(str(place(checkpoint, "t5")))
    taken: list[tuple[int, ...]] = []
    tower._model.register_forward_pre_hook(
        lambda _, __, given: taken.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    captions = ["", "A dog runs.", "", "A dog runs. " * 6, "A dog runs.", "a dog"]
    at_once = rows_of(tower, captions)
    longest = len(at_once[3])
    assert taken == [(4, longest)]
    monkeypatch.setattr(text_encoder, "_TOKENS", 2 * longest + 1)
    in_parts = rows_of(tower, captions)
    assert [count for count, _ in taken[1:]] == [2, 2]
    assert taken[1][1] < longest
    for one, other in zip(at_once, in_parts, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert torch.equal(at_once[1], at_once[4])
    empty, offsets = tower.encode([])
    assert empty.shape == (0, 32)
    assert offsets.tolist() == [0]


def test_long_captions_end_at_the_limit_and_are_counted(checkpoint: Checkpoint) -> None:
    long = "A dog runs over a green field. " * 40
    clip = load_text_encoder(str(place(checkpoint, "clip text")))
    assert clip.max_tokens == 77  # of the checkpoint, whatever is asked
    tower = load_text_encoder(str(place(checkpoint, "t5")), max_tokens=12)
    short, cut = rows_of(tower, ["A dog runs.", long])
    assert (len(short), len(cut)) == (9, 12)
    assert tower.shortened == 1
    assert tower._tokens(long)[-1] == 1  # it still ends with the end's mark
    assert len(rows_of(clip, [long])[0]) == 77
    assert clip.shortened == 1
    # What stands behind the limit is not read.
    assert torch.equal(rows_of(tower, [long])[0], rows_of(tower, [long + "Rain falls."])[0])


def test_half_a_surrogate_pair_is_a_question_mark(checkpoint: Checkpoint) -> None:
    tower = load_text_encoder(str(place(checkpoint, "t5")))
    broken, mended = rows_of(tower, ["caf\ud800", "caf?"])
    assert torch.equal(broken, mended)


def no_room_for(most: int) -> Callable[..., None]:
    def check(_: object, __: object, given: dict[str, Tensor]) -> None:
        if len(given["input_ids"]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    return check


def test_where_memory_runs_out_fewer_captions_are_taken_at_a_time(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = load_text_encoder(str(place(checkpoint, "t5")))
    rows, _ = tower.encode(CAPTIONS[:2])
    monkeypatch.setattr(text_encoder, "_TOKENS", 2 * 9)
    hook = tower._model.register_forward_pre_hook(no_room_for(1), with_kwargs=True)
    torch.testing.assert_close(tower.encode(CAPTIONS[:2])[0], rows, atol=1e-5, rtol=1e-4)
    hook.remove()
    tower._model.register_forward_pre_hook(no_room_for(0), with_kwargs=True)
    monkeypatch.setattr(text_encoder, "_TOKENS", 1)
    assert "cannot take a caption of 9 tokens on cpu" in problem(lambda: tower.encode(CAPTIONS[:2]))


def test_bfloat16_is_near(checkpoint: Checkpoint) -> None:
    exact, _ = load_text_encoder(str(place(checkpoint, "t5"))).encode(CAPTIONS)
    tower = load_text_encoder(str(place(checkpoint, "t5")), dtype=torch.bfloat16)
    rounded, _ = tower.encode(CAPTIONS)
    assert 0 < (rounded - exact).abs().max() < 0.1


def test_a_config_needs_no_torch(checkpoint: Checkpoint) -> None:
    code = (
        "import sys; from vidcurate.models import text_encoder_config\n"
        "config = text_encoder_config(sys.argv[1])\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
        "print(config.width, config.facts['class'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(place(checkpoint, "clip"))],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["32", "CLIPTextModel"]


@families
def test_a_config_says_what_is_loaded(checkpoint: Checkpoint, family: str) -> None:
    config = text_encoder_config(str(place(checkpoint, family)))
    tower = load_text_encoder(str(place(checkpoint, family)))
    assert (tower.width, tower.facts) == (config.width, config.facts)
    assert config.facts["class"] == FAMILIES[family][1]


def pipeline(checkpoint: Checkpoint, root: Path) -> Path:
    """A local copy of a pipeline's repository: encoder and tokenizer in folders side by side."""
    encoder, tokenizer = root / "text_encoder_2", root / "tokenizer_2"
    shutil.copytree(place(checkpoint, "umt5"), encoder)
    tokenizer.mkdir()
    for file in encoder.glob("tokenizer*"):
        file.rename(tokenizer / file.name)
    (root / "model_index.json").write_text(json.dumps({"text_encoder_2": ["transformers", "T"]}))
    (root / "transformer").mkdir()
    (root / "transformer" / "model.safetensors").write_bytes(b"large" * 1000)
    return root


def test_the_tokenizer_may_lie_beside(
    checkpoint: Checkpoint, model_hub: HubServer, tmp_path: Path
) -> None:
    root = pipeline(checkpoint, tmp_path / "wan")
    whole = load_text_encoder(str(place(checkpoint, "umt5")))
    local = load_text_encoder(str(root / "text_encoder_2"))
    assert torch.equal(local.encode(CAPTIONS)[0], whole.encode(CAPTIONS)[0])
    model_hub.files = {
        str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()
    }
    name = "me/model/text_encoder_2"
    config = text_encoder_config(name)
    assert {path for path, _, _ in model_hub.sent} == {
        "text_encoder_2/config.json",
        "model_index.json",
    }
    assert config.facts == {
        "name": name,
        "key": name,
        "class": "UMT5EncoderModel",
        "revision": COMMIT,
    }
    fetched = load_text_encoder(name)
    assert fetched.facts == config.facts
    assert torch.equal(fetched.encode(CAPTIONS)[0], whole.encode(CAPTIONS)[0])
    sent = {path for path, _, _ in model_hub.sent}
    assert sent == set(model_hub.files) - {"transformer/model.safetensors"}
    # A tokenizer that changes is another state of the encoder.
    before = text_encoder_config(str(root / "text_encoder_2")).facts
    assert before == local.facts
    file = root / "tokenizer_2" / "tokenizer_config.json"
    file.write_text(file.read_text() + "\n")
    after = text_encoder_config(str(root / "text_encoder_2")).facts
    assert after["revision"] != before["revision"]
    assert after["name"] == before["name"] == str(root / "text_encoder_2")


def test_what_cannot_be_loaded(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(name: str, **config: Any) -> Path:
        folder = shutil.copytree(place(checkpoint, "t5"), tmp_path / name)
        found = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(found | config))
        return folder

    other = changed("other", model_type="bert")
    assert "a model of the type bert; of text encoders, t5" in problem(
        lambda: text_encoder_config(str(other))
    )
    deep = changed("deep", num_layers=3)
    assert "no whole T5EncoderModel" in problem(lambda: load_text_encoder(str(deep)))
    wide = changed("wide", d_model=64)
    assert f"{wide} cannot be loaded" in problem(lambda: load_text_encoder(str(wide)))
    mute = changed("mute")
    (mute / "tokenizer.json").unlink()  # its settings are still there
    assert "has no tokenizer" in problem(lambda: load_text_encoder(str(mute)))
    (mute / "spiece.model").write_bytes(b"pieces")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(MissingExtraError, match="pip install sentencepiece"):
        load_text_encoder(str(mute))
    mixed = changed("mixed")
    for file in place(checkpoint, "clip").glob("tokenizer*"):
        shutil.copy(file, mixed)
    assert re.search(
        r"has \d+ tokens and \S+ knows \d+: they are not of one model",
        problem(lambda: load_text_encoder(str(mixed))),
    )
    empty = changed("empty")
    (empty / "model.safetensors").unlink()
    assert "holds no weights" in problem(lambda: load_text_encoder(str(empty)))
    damaged = changed("damaged")
    (damaged / "model.safetensors").write_bytes(b"no weights")
    assert "damaged" in problem(lambda: load_text_encoder(str(damaged)))


@families
def test_loading_and_encoding_say_nothing(
    checkpoint: Checkpoint, family: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = str(place(checkpoint, family))
    capfd.readouterr()  # what making it said
    load_text_encoder(folder).encode(["A dog runs. " * 300])
    assert capfd.readouterr() == ("", "")
