"""Tars of moving shapes in a folder of its own for each test, and tiny models."""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from vidcurate.media.frame_files import save_frames
from vidcurate.shards.foreign import index_tars
from vidcurate.train.config import TrainConfig, from_raw

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))

import checkpoints

from tests.train.conftest import moving

Clip = tuple[str, bytes, str]


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Eight clips: name, .mp4, caption; in turn of 9 frames of 32x48 and 6 of 48x32 pixels."""
    folder = tmp_path_factory.mktemp("clips")
    made = []
    for i in range(8):
        video, caption = moving(i, *((9, 32, 48), (6, 48, 32))[i % 2])
        save_frames(folder / f"{i}.mp4", video, 8.0)
        made.append((f"clip{i}", (folder / f"{i}.mp4").read_bytes(), caption))
    return made


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_tar(path: Path, clips: Sequence[Clip]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, video, caption in clips:
            for suffix, data in (("mp4", video), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


@pytest.fixture
def base(tmp_path: Path, clips: list[Clip]) -> Path:
    """Three tars of two clips each, indexed."""
    folder = tmp_path / "shards" / "base"
    folder.mkdir(parents=True)
    for i in range(3):
        write_tar(folder / f"{i}.tar", clips[2 * i : 2 * i + 2])
    index_tars(folder, val=0.0, workers=1)
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Folders of tiny models: tiny (of single frames), wan (causal), t5."""
    root = tmp_path_factory.mktemp("models")
    return {
        "tiny": str(checkpoints.write_vae(root / "tiny", "AutoencoderTiny")),
        "wan": str(checkpoints.write_vae(root / "wan", "AutoencoderKLWan")),
        "t5": str(checkpoints.write_text_encoder(root / "t5")),
    }


@pytest.fixture
def recipe(base: Path, models: Mapping[str, str]) -> Callable[..., TrainConfig]:
    """recipe(vae="tiny", text="t5", encode={...}, data={...}): of `base`."""

    def make(
        vae: str | None = "tiny",
        text: str | None = "t5",
        encode: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> TrainConfig:
        names = {"vae": vae and models[vae], "text": text and models[text]}
        channels = {"tiny": 4, "wan": 16, None: 3}[vae]
        return from_raw(
            {
                "data": {"shards": str(base), "captions": "{source}", "workers": 0, **(data or {})},
                "encode": {**{k: v for k, v in names.items() if v}, **(encode or {})},
                "model": {
                    **{"width": 16, "depth": 1, "heads": 2},
                    **{"channels": channels, "text_width": 32},
                },
                "steps": 1,
                "output": str(base.parent / "train"),
            }
        )

    return make
