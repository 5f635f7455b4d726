"""WebDataset: the samples of tars, by an earlier run or by another tool."""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from vidcurate import (
    AcquireError,
    BrokenTarError,
    ClipRow,
    RowFault,
    Source,
    TypeName,
    UserError,
    VideoRow,
    fit_value,
    tar_members,
    tell_types,
)

# fmt: off
_VIDEO = frozenset((
    "3gp", "avi", "flv", "m2ts", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "mts", "ogv", "ts",
    "vob", "webm", "wmv", "y4m",
))
# fmt: on
# WebDataset's rule: the key ends at the first dot of the base name; hidden files have none.
_MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
_META = re.compile(r"__[^/]*__(?:$|/)")
_SAMPLE = 1_000  # samples from which columns and their types are told
_MAX_TEXT = 16 * 1024**2
_RIGHTS = ("license", "terms", "channel", "retrieved_at", "sha256")


class Webdataset(Source):
    """Videos in tars of the WebDataset form: shards of vidcurate, of video2dataset, of webdataset.

    path: a tar, a folder (of tars, at any depth), or a pattern such as "shards/*.tar". Of a folder
        shards/<selection> of an earlier run, the shards that its index.json names.
    types: column -> string, int64, float64 or bool, where the type told from the first 1,000
        samples is not the right one.

    A sample is what stands together in a tar under one key, the name up to the first dot of its
    last part. Its video member (mp4, webm, mkv, mov, avi, flv and the like) is the video, named
    `<tar>#<member>`, whole; its key is the dataset_id. The keys of its .json are columns, nested
    ones as JSON text; .txt is the caption (else the JSON's `caption`, which stays a column, too);
    other text members (UTF-8 in all of the first samples that have them) are columns named as
    their ending; other binary members (sound, features) are no columns. Keys and endings that
    first come up after 1,000 samples are left out. license, terms, channel, retrieved_at and
    sha256 in the JSON become the video's rights, and so does what stands under `rights` but for
    sha256, which is of the file that the clip was cut from.

    Only headers and text are read here. Tars are plain ones, not packed as .gz. What goes to the
    quarantine: a sample without video (with the status that video2dataset gives), with broken
    JSON or text, or with a value that misses its column's type; members with hostile names, links
    and devices; what stands behind the place where a tar is broken.
    """

    name: ClassVar[str] = "webdataset"

    path: str
    types: dict[str, TypeName] = {}

    def dataset_schema(self) -> pa.Schema:
        """The columns of the first 1,000 samples: keys of their JSON, then other text members.

        Raises:
            UserError: there is no tar.
        """
        return pa.schema(list(self._columns(self._tars()).items()))

    def videos(self) -> Iterator[VideoRow | RowFault]:
        """The samples in the order of the tars' paths and of their members.

        Raises:
            UserError: there is no tar.
        """
        tars = self._tars()
        columns = self._columns(tars)
        for tar, relative in tars:
            for found in _samples(tar):
                if isinstance(found, RowFault):
                    yield found
                else:
                    yield from _rows(found, relative, columns)

    def _tars(self) -> list[tuple[Path, str]]:
        """The tars, each with its path below the input."""
        path = Path(self.path).expanduser().resolve()
        if path.is_file():
            return [(path, path.name)]
        if path.is_dir():
            base, found = path, _shards(path)
        else:
            base = path.parent
            found = sorted(p for p in base.glob(path.name) if p.is_file()) if base.is_dir() else []
        if not found:
            raise UserError(
                f"webdataset: {path} is no tar, and no folder or pattern with tars; set the "
                "source's path, or give --input"
            )
        return [(tar, tar.relative_to(base).as_posix()) for tar in found]

    def _columns(self, tars: Sequence[tuple[Path, str]]) -> dict[str, pa.DataType]:
        found = (s for tar, _ in tars for s in _samples(tar) if isinstance(s, _Sample))
        rows: list[Mapping[str, Any]] = []
        texts: dict[str, bool] = {}
        for sample in islice(found, _SAMPLE):
            try:
                rows.append(sample.json())
            except ValueError:
                continue  # `videos` tells it
            for suffix in sample.others():
                if texts.get(suffix, True):
                    texts[suffix] = sample.is_text(suffix)
        columns = tell_types(rows, self.types)
        others = {suffix: pa.string() for suffix in sorted(texts) if texts[suffix]}
        for name in self.types:
            if name not in columns and name not in others:
                raise UserError(
                    f"webdataset: {self.path} has no column {name!r} (types); it has: "
                    f"{', '.join([*columns, *others])}"
                )
        return {k: v for k, v in (others | columns).items() if k not in _RIGHTS}


@dataclass
class _Sample:
    """The members of one key: ending in lower case -> its header."""

    tar: Path
    key: str
    members: dict[str, tarfile.TarInfo]

    def json(self) -> Mapping[str, Any]:
        """What the .json holds; empty where there is none.

        Raises:
            ValueError: it is no JSON object; the message is for people.
        """
        if "json" not in self.members:
            return {}
        text = self.text("json")
        try:
            found = json.loads(text)
            if "\\ud" in text:  # half of a surrogate pair can be written so
                json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("the .json holds half a character (a lone surrogate)") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the .json cannot be read: {error}") from error
        if not isinstance(found, dict):
            raise ValueError("the .json is not a JSON object")
        return found

    def text(self, suffix: str) -> str:
        """A member as text.

        Raises:
            ValueError: too large or not UTF-8.
        """
        size = self.members[suffix].size
        if size > _MAX_TEXT:
            raise ValueError(f"the .{suffix} has {size} bytes, more than the {_MAX_TEXT} allowed")
        try:
            return self._read(suffix, size).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"the .{suffix} is not valid UTF-8") from error

    def is_text(self, suffix: str) -> bool:
        """Whether a member holds UTF-8 without zero bytes."""
        try:
            return "\0" not in self.text(suffix)
        except ValueError:
            return False

    def videos(self) -> list[str]:
        """The endings of the video members, mostly one."""
        return [suffix for suffix in self.members if suffix.rpartition(".")[2] in _VIDEO]

    def others(self) -> list[str]:
        """The endings of all but videos, .json and .txt."""
        return [s for s in self.members if s not in ("json", "txt", *self.videos())]

    def _read(self, suffix: str, size: int) -> bytes:
        with self.tar.open("rb") as file:
            file.seek(self.members[suffix].offset_data)
            return file.read(size)


def _shards(folder: Path) -> list[Path]:
    """The tars of a folder, those that index.json names where there is one of vidcurate."""
    try:
        index = json.loads((folder / "index.json").read_text("utf-8"))
        named = [folder / shard["path"] for shard in index["shards"]]
    except (OSError, ValueError, LookupError, TypeError):
        named = []
    if named and all(tar.is_file() and tar.resolve().is_relative_to(folder) for tar in named):
        return named
    tars = (p for p in folder.rglob("*.tar") if p.is_file())
    return sorted(p for p in tars if not any(n[0] == "." for n in p.relative_to(folder).parts))


def _samples(tar: Path) -> Iterator[_Sample | RowFault]:
    """The samples of a tar in order, and what is wrong with it."""
    sample: _Sample | None = None
    done: set[str] = set()
    try:
        for info in tar_members(tar):
            if info.isdir() or _META.match(info.name):
                continue
            if reason := _refused(info):
                shown = info.name.encode(errors="replace").decode()
                yield RowFault(f"{tar}#{shown}", reason)
                continue
            match = _MEMBER.fullmatch(info.name)
            if match is None:
                continue
            key, suffix = match[1], match[2].lower()
            if sample is None or key != sample.key:
                if sample is not None:
                    done.add(sample.key)
                    yield sample
                    sample = None
                if key in done:
                    yield RowFault(f"{tar}#{info.name}", "its key stood before other keys already")
                    continue
                sample = _Sample(tar, key, {})
            if suffix in sample.members:
                yield RowFault(f"{tar}#{info.name}", "the tar holds this name twice")
            else:
                sample.members[suffix] = info
    except AcquireError as error:
        cut = error.member if isinstance(error, BrokenTarError) else None
        match = _MEMBER.fullmatch(cut or "")
        if sample is not None and match is not None and match[1] != sample.key:
            yield sample  # another one is cut
            sample = None
        left = f"; the sample {sample.key!r} may lack members: left out" if sample else ""
        yield RowFault(str(tar), f"{error}{left}")
        return
    if sample is not None:
        yield sample


def _refused(info: tarfile.TarInfo) -> str | None:
    """Why a member is not touched; None where it is fine."""
    try:
        info.name.encode()
    except UnicodeEncodeError:
        return "the member's name is not valid UTF-8"
    if info.name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", info.name):
        return "the member's name leads out of the tar: left out"
    if "\0" in info.name:
        return "the member's name holds a zero byte: left out"
    if not info.isreg() or info.issparse():
        return "a link, a device or the like, not a regular file: left out"
    return None


def _rows(
    sample: _Sample, relative: str, columns: Mapping[str, pa.DataType]
) -> Iterator[VideoRow | RowFault]:
    try:
        about = sample.json()
        texts = {s: sample.text(s) for s in sample.others() if s in columns and s not in about}
        known = {**texts, **about}
        fields = {name: fit_value(name, known.get(name), kind) for name, kind in columns.items()}
        caption = (sample.text("txt") if "txt" in sample.members else "") or about.get("caption")
    except OSError as error:
        yield RowFault(f"{sample.tar}#{sample.key}", f"cannot be read: {error.strerror}")
        return
    except ValueError as error:
        yield RowFault(f"{sample.tar}#{sample.key}", str(error))
        return
    videos = sample.videos()
    if not videos:
        said = [str(about[k]) for k in ("status", "error_message") if about.get(k)]
        reason = f" ({': '.join(said)})" if said else ""
        yield RowFault(f"{sample.tar}#{sample.key}", f"a sample without a video{reason}", fields)
    clip = ClipRow(caption=caption if caption and isinstance(caption, str) else None, fields=fields)
    for suffix in videos:
        member = sample.members[suffix].name
        yield VideoRow(
            os.fspath(sample.tar) + f"#{member}",
            relative=f"{relative}#{member}",
            dataset_id=sample.key,
            clips=(clip,),
            fields=fields,
            rights=_rights(about),
        )


def _rights(about: Mapping[str, Any]) -> dict[str, str]:
    inner = about.get("rights")
    found = {n: v for n, v in inner.items() if n != "sha256"} if isinstance(inner, dict) else {}
    found |= {name: about[name] for name in _RIGHTS if name in about}
    return {n: str(v) for n, v in found.items() if n in _RIGHTS and v not in (None, "", "unknown")}
