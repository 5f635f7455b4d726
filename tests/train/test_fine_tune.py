"""Fine-tuning: what is begun with, LoRA's small checkpoints, going on, two ranks."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from two_ranks import both
from two_ranks import recipe as plain_recipe

from vidcurate.errors import MissingExtraError, RecipeError, RunDirectoryError, UserError
from vidcurate.train import fine_tune
from vidcurate.train.checkpoint import about, checkpoints, find
from vidcurate.train.config import from_raw
from vidcurate.train.loop import Summary, train
from vidcurate.train.metrics import read
from vidcurate.train.sampling.generate import load_network

LORA = {"rank": 4, "alpha": 8, "modules": ["qkv", "kv", "mlp"]}
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recipe(folder: Path, output: Path, **changes: Any) -> dict[str, Any]:
    return plain_recipe(str(folder), str(output), **changes)


def tuned(folder: Path, output: Path, base: Path, **changes: Any) -> dict[str, Any]:
    begin = {"checkpoint": str(base), "averaged": changes.pop("averaged", True)}
    return recipe(folder, output, init_from=begin, **changes)


def run(raw: dict[str, Any]) -> Summary:
    return train(from_raw(raw), show=lambda _: None)


def stored(output: Path) -> dict[str, torch.Tensor]:
    reader = dcp.FileSystemReader(find(output))
    found = {
        name: torch.full(said.size, float("nan"), dtype=said.properties.dtype)
        for name, said in reader.read_metadata().state_dict_metadata.items()
    }
    dcp.load(found, storage_reader=reader, no_dist=True)
    return found


def loaded(path: Path) -> dict[str, torch.Tensor]:
    """The averaged weights as what generates takes them."""
    network, _ = load_network(path, averaged=True)
    return fine_tune.trained(network)


@pytest.fixture(scope="module")
def base(shapes: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of four steps; never write to it."""
    output = tmp_path_factory.mktemp("base")
    run(recipe(shapes(8), output, optimizer={"lr": 1e-2}))
    return output


def test_all_weights_begin_as_those_of_another_training(shapes, tmp_path, base, caplog):
    caplog.set_level(logging.INFO, "vidcurate.train")
    still = {"optimizer": {"lr": 1e-30}, "steps": 1}
    run(tuned(shapes(8), tmp_path / "average", base, **still))
    assert f"the moving average of the weights of {find(base)}" in caplog.text
    run(tuned(shapes(8), tmp_path / "raw", find(base), averaged=False, **still))
    there = stored(base)
    assert not torch.equal(there["ema.dit.tokens_in.bias"], there["model.dit.tokens_in.bias"])
    for part, output in (("ema", "average"), ("model", "raw")):
        here = stored(tmp_path / output)
        names = [name for name in here if name.startswith("model.")]
        assert len(names) > 40
        for name in names:
            assert torch.equal(here[name], there[name.replace("model", part, 1)]), name
        # Step, optimiser and data begin anew; what was begun with is known.
        said = about(find(tmp_path / output))
        assert (said["step"], said["data"]["sources"][0]["epoch"]) == (1, 0)
        assert here["optimizer.dit.tokens_in.bias.step"] == 1
        assert said["base"] == {"checkpoint": str(find(base)), "averaged": part == "ema"}
    # Going on does not begin again, and does not need the other training any more.
    gone = tuned(shapes(8), tmp_path / "raw", tmp_path / "gone", **still | {"steps": 2})
    assert run(gone).step == 2
    assert about(find(tmp_path / "raw"))["base"]["checkpoint"] == str(find(base))


def test_shapes_that_differ_are_named_and_settings_that_fit_are_told(
    shapes, tmp_path, base, caplog
):
    wide = {"width": 48, "depth": 2, "heads": 2, "patch": [1, 4, 4], "text_width": 16}
    with pytest.raises(
        UserError,
        match=r"does not fit this model: dit\.tokens_in\.weight is \(32, 48\) there and \(48, 48\) "
        r"here; .*; and \d+ more; set model",
    ):
        run(tuned(shapes(8), tmp_path / "wide", base, model=wide))
    with pytest.raises(UserError, match=r"dit\.blocks\.2\.modulation\.weight is not there"):
        run(tuned(shapes(8), tmp_path / "deep", base, model=wide | {"width": 32, "depth": 3}))
    space = wide | {"width": 32, "depth": 1, "blocks": "interleaved"}
    run(tuned(shapes(8), tmp_path / "space", base, model=space, steps=1))
    assert "model differs from that of" in caplog.text
    assert "blocks was ['full', 'full'] and is ['space']; depth was 2 and is 1" in caplog.text
    assert "not taken, as this model has none: dit.blocks.1." in caplog.text
    with pytest.raises(RunDirectoryError, match="holds no checkpoint"):
        run(tuned(shapes(8), tmp_path / "none", tmp_path))


def test_lora_trains_adapters_alone_and_goes_on_bit_for_bit(shapes, tmp_path, base):
    before = stored(base)
    raw = tuned(shapes(8), tmp_path / "cut", base, lora=LORA, optimizer={"lr": 1e-2})
    run(raw | {"steps": 2})
    run(raw)
    run(raw | {"output": str(tmp_path / "whole")})
    cut, whole = stored(tmp_path / "cut"), stored(tmp_path / "whole")
    assert cut.keys() == whole.keys()
    assert [name for name in cut if not torch.equal(cut[name], whole[name])] == []
    assert {name.partition(".")[0] for name in cut} == {"model", "ema", "optimizer"}
    assert all("lora_" in name for name in cut)
    # qkv, kv and both layers of the MLP of two blocks, A and B of each
    assert sum(name.startswith("model.") for name in cut) == 2 * 4 * 2
    size = {o: sum(f.stat().st_size for f in find(o).iterdir()) for o in (base, tmp_path / "cut")}
    assert size[tmp_path / "cut"] < 0.5 * size[base]
    after = stored(base)
    assert all(torch.equal(after[name], before[name]) for name in before)
    said = about(find(tmp_path / "cut"))
    assert said["lora"] == LORA
    assert said["base"]["checkpoint"] == str(find(base))
    # It begins as the base is: B is zero. What is loaded is the base with its adapters' product.
    first = read(tmp_path / "whole" / "metrics.jsonl")[0]["loss"]
    plain = tuned(shapes(8), tmp_path / "plain", base, steps=1)
    run(plain)
    assert first == pytest.approx(read(tmp_path / "plain" / "metrics.jsonl")[0]["loss"], rel=1e-6)
    made, beneath = loaded(tmp_path / "cut"), loaded(base)
    assert made.keys() == beneath.keys()
    name = "dit.blocks.0.attentions.0.qkv"
    added = cut[f"ema.{name}.lora_B.default.weight"] @ cut[f"ema.{name}.lora_A.default.weight"]
    assert added.abs().max() > 1e-4
    torch.testing.assert_close(made[f"{name}.weight"], beneath[f"{name}.weight"] + 2 * added)
    assert torch.equal(made["dit.tokens_in.weight"], beneath["dit.tokens_in.weight"])


def test_adapters_are_a_base_in_their_turn(shapes, tmp_path, base):
    run(tuned(shapes(8), tmp_path / "one", base, lora=LORA, optimizer={"lr": 1e-2}, steps=2))
    again = tuned(shapes(8), tmp_path / "two", tmp_path / "one", lora=LORA, steps=1)
    run(again | {"optimizer": {"lr": 1e-30}})
    run(tuned(shapes(8), tmp_path / "all", tmp_path / "one", steps=1, optimizer={"lr": 1e-30}))
    once, twice, every = (loaded(tmp_path / name) for name in ("one", "two", "all"))
    assert once.keys() == twice.keys() == every.keys()
    for name, tensor in once.items():
        torch.testing.assert_close(twice[name], tensor)
        torch.testing.assert_close(every[name], tensor)


def test_what_does_not_fit_lora_is_told(shapes, tmp_path, base, monkeypatch):
    folder = shapes(8)
    with pytest.raises(RecipeError, match="lora: needs init_from"):
        from_raw(recipe(folder, tmp_path, lora=LORA))
    with pytest.raises(
        UserError, match=r"no linear layer 'qvk'; did you mean 'qkv'\? \(known: kv,"
    ):
        run(tuned(folder, tmp_path / "wrong", base, lora=LORA | {"modules": ["qvk"]}))
    out = tmp_path / "out"
    raw = tuned(folder, out, base, lora=LORA, steps=1)
    run(raw)
    with pytest.raises(UserError, match=r"LoRA of other settings: rank was 4 and is 8; set lora"):
        run(raw | {"lora": LORA | {"rank": 8}, "steps": 2})
    with pytest.raises(UserError, match=r"step-00000001 is of LoRA, .* set lora as it was"):
        run(recipe(folder, out, steps=2))
    full = recipe(folder, base, lora=LORA, init_from={"checkpoint": str(base)}, steps=5)
    with pytest.raises(UserError, match="is of all weights, without lora"):
        run(full)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match="lora needs peft"):
        run(tuned(folder, tmp_path / "bare", base, lora=LORA))


def test_a_base_that_went_or_changed_is_told(shapes, tmp_path, base):
    moved, out = tmp_path / "moved", tmp_path / "out"
    shutil.copytree(base, moved)
    raw = tuned(shapes(8), out, moved, lora=LORA, steps=1)
    run(raw)
    moved.rename(tmp_path / "elsewhere")
    with pytest.raises(RunDirectoryError, match=r"whose weights .* is not there; put it back"):
        loaded(out)
    # Going on finds it where the recipe says that it is now, by its weights.
    elsewhere = {"checkpoint": str(tmp_path / "elsewhere")}
    assert run(raw | {"init_from": elsewhere, "steps": 2}).step == 2
    shutil.copytree(tmp_path / "elsewhere", moved)
    run(recipe(shapes(8), moved, optimizer={"lr": 1e-2}, steps=5))
    later, then = (
        checkpoints(moved / "checkpoints")[-1],
        Path(about(find(out))["base"]["checkpoint"]),
    )
    shutil.rmtree(then, ignore_errors=True)
    later.rename(then)
    with pytest.raises(RunDirectoryError, match=r"has other weights \(digest [0-9a-f]{32}\)"):
        loaded(out)


def test_two_ranks_train_adapters_as_one(shapes, tmp_path, base):
    """DDP and FSDP2 with frozen weights against one process on the same global batch."""
    raw = tuned(shapes(8), tmp_path / "one", base, lora=LORA, steps=3)
    raw["optimizer"] = raw["optimizer"] | {"lr": 1e-2, "accumulation": 2}
    one = tmp_path / "one"
    run(raw)
    raw["optimizer"] = raw["optimizer"] | {"accumulation": 1}
    (tmp_path / "recipe.json").write_text(json.dumps(raw))
    both(str(Path(__file__).with_name("lora_ranks.py")), str(tmp_path))
    alone, merged = stored(one), loaded(one)
    for how in ("ddp", "fsdp2"):
        for name in ("loss", "grad_norm"):
            found = [line[name] for line in read(tmp_path / how / "metrics.jsonl")]
            expected = [line[name] for line in read(one / "metrics.jsonl")]
            assert found == pytest.approx(expected, rel=2e-4)
        spread = stored(tmp_path / how)
        assert spread.keys() == alone.keys()
        for name in alone:
            if name.startswith(("model.", "ema.")):
                torch.testing.assert_close(spread[name], alone[name], rtol=1e-2, atol=1e-3)
        for name, tensor in loaded(tmp_path / how).items():
            torch.testing.assert_close(tensor, merged[name], rtol=1e-2, atol=1e-3)
