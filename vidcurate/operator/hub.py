"""Data sets of a hub as sources: one file of them through another source, or their rows, streamed.

The hubs' sources share this; each says how its hub is asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Self
from urllib.parse import quote

import pyarrow as pa
from pydantic import ValidationError, model_validator

from vidcurate.clip import is_url, url_key
from vidcurate.errors import MissingExtraError, UserError
from vidcurate.operator.base import RowFault, Source, VideoRow
from vidcurate.operator.mapping import RowMap, TypeName, fit_value, tell_types
from vidcurate.operator.metadata import MetadataRow

_SAMPLE = 10_000  # rows from which types are told where the data set does not state them
_HF = re.compile(r"hf://datasets/([^/@]+(?:/[^/@]+)?)(?:@([^/]+))?/(.+)")
_PACKED = (
    "the video stands in an archive of the data set: unpack it, and name the files in a table "
    "(`base` is their folder); of tars, use the source `webdataset`"
)
_MAPPING = ("column", "start", "end", "caption", "dataset_id", "base", "types")
_CHAINED = re.compile(r"(?!https?://)\w+://.*::")  # fsspec's paths into archives
_BYTES = (
    "the video's bytes stand in the row itself, and they are not taken out: write them to files "
    "and name these in a table, or download the data set's tars for the source `webdataset`"
)

Row = Mapping[str, Any]


class HubSource(Source):
    """What the sources of all hubs share; the parameters are told there.

    A subclass says how its hub is asked (`download`, `stream`, `failures`, `home`), the hub's own
    address (`hub`), and what a user can do where it cannot be reached (`remedy`).
    """

    extra: ClassVar[str] = "hubs"
    input_field: ClassVar[str] = "dataset"
    hub: ClassVar[str]
    remedy: ClassVar[str]

    dataset: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    file: str | None = None
    adapter: str | None = None
    options: dict[str, Any] = {}
    column: str | None = None
    start: str | None = None
    end: str | None = None
    caption: str | None = None
    dataset_id: str | None = None
    base: str | None = None
    types: dict[str, TypeName] = {}

    # ------------------------------------------------------------------ what a hub says

    def download(self, file: str) -> str:
        """The local path of one file of the hub's data set."""
        raise NotImplementedError

    def stream(self) -> Any:
        """The rows, as an IterableDataset of the library `datasets`."""
        raise NotImplementedError

    def failures(self) -> tuple[type[Exception], ...]:
        """What the hub's library and `datasets` raise where something cannot be had.

        Raises:
            ImportError: one of them is not installed.
        """
        raise NotImplementedError

    def home(self, dataset: str, revision: str | None) -> str:
        """The URL below which the files of a data set lie."""
        raise NotImplementedError

    # ------------------------------------------------------------------ the source

    @property
    def is_grouped(self) -> bool:  # type: ignore[override]
        """As the adapter says; rows of the mapping are joined like those of a table."""
        return self._inner is not None and self._inner.is_grouped

    def dataset_schema(self) -> pa.Schema:
        """The columns that are kept, with the data set's own types.

        Where it states none (CSV files), they are told from the first 10,000 rows.

        Raises:
            UserError: the data set cannot be had, or lacks a named column.
            MissingExtraError: the hub's library is not installed.
        """
        return self._inner.dataset_schema() if self._inner else self._plan.map.schema()

    def videos(self) -> Iterator[VideoRow | RowFault]:
        """The videos in the data set's order, streamed.

        Raises:
            UserError: the data set cannot be had, or lacks a named column; the connection broke.
            MissingExtraError: the hub's library is not installed.
        """
        if self._inner:
            rows = self._inner.videos()
        else:
            rows = self._plan.map.videos(map(self._plain, self._rows()))
        address = self.hub if self._local else self.home("any/set", None).partition("/datasets/")[0]
        if address == self.hub:
            yield from rows
            return
        for row in rows:
            yield self._keyed(row, address) if isinstance(row, VideoRow) else row

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.options and not self.adapter:
            raise ValueError("options are those of an adapter: name one, such as adapter: panda70m")
        if self.adapter and (mine := self.model_fields_set.intersection(_MAPPING)):
            raise ValueError(f"with an adapter, {sorted(mine)[0]} is one of its options")
        if apart := {"where", "exclude"}.intersection(self.options):
            raise ValueError(f"{sorted(apart)[0]} belongs to the source itself, not to options")
        return self

    def _keyed(self, row: VideoRow, address: str) -> VideoRow:
        """A file of the hub has the hub's own key, by whatever mirror it comes."""
        if row.key is None and row.location.startswith(f"{address}/datasets/"):
            return replace(row, key=url_key(self.hub + row.location.removeprefix(address)))
        return row

    @cached_property
    def _local(self) -> Path | None:
        """The local copy, where `dataset` is a path of one."""
        path = Path(self.dataset).expanduser()
        if path.exists():
            return path.resolve()
        if self.dataset.startswith(("/", ".", "~")):
            raise UserError(f"{self.name}: {path} does not exist; set the source's dataset")
        return None

    @cached_property
    def _inner(self) -> Source | None:
        """The source that reads the one file; None where all of the data set is read."""
        if self._local and (self._local.is_file() or self.adapter) and not self.file:
            return self._reader(self._local)
        if self.file is None:
            if self.adapter:
                raise UserError(
                    f"{self.name}: the adapter {self.adapter!r} reads one file of "
                    f"{self.dataset!r}: name it with `file`"
                )
            return None
        if self._local is None:
            return self._reader(Path(self._asked(lambda: self.download(str(self.file)))))
        path = self._local / self.file
        if not path.is_file():
            raise UserError(f"{self.name}: {self._local} has no file {self.file!r}")
        return self._reader(path)

    def _reader(self, path: Path) -> Source:
        from vidcurate.operator import registry

        name = self.adapter or "table"
        operator = registry.get(name, "source")
        assert issubclass(operator, Source)
        options = self.options
        if not self.adapter:
            options = {n: v for n in _MAPPING if (v := getattr(self, n)) not in (None, {})}
            if self._local is None:
                folder = quote(PurePosixPath(str(self.file)).parent.as_posix())
                home = self.home(self.dataset, self.revision)
                options.setdefault("base", home if folder == "." else f"{home}/{folder}")
        try:
            return operator.model_validate(
                {**options, operator.input_field: str(path)}, context={"recipe": True}
            )
        except ValidationError as error:
            said = error.errors(include_url=False)[0]
            place = ".".join(str(each) for each in said["loc"])
            raise UserError(f"{self.name}: options of {name!r}: {place}: {said['msg']}") from error

    # ------------------------------------------------------------------ rows of the data set

    @property
    def _place(self) -> str:
        config = f"/{self.config}" if self.config else ""
        return f"{self.dataset}{config} [{self.split}]"

    @cached_property
    def _plan(self) -> _Plan:
        data = self._open()
        if data.features is None:
            found = islice(self._rows(), _SAMPLE)
            rows = [row.values for row in found if isinstance(row, MetadataRow)]
            kinds, labels = tell_types(rows, self.types), {}
        else:
            kinds = dict(zip(data.features, data.features.arrow_schema.types, strict=True))
            labels = {
                name: dict(enumerate(feature.names))
                for name, feature in data.features.items()
                if hasattr(feature, "int2str")
            }
        base = self.base or (str(self._local) if self._local else None)
        if base is None:
            base = self.home(self.dataset, self.revision)
        elif not is_url(base):
            base = str(Path(base).expanduser())
        columns = RowMap.of(
            self.name,
            self._place,
            kinds,
            base=base,
            column=self.column,
            times=(self.start, self.end),
            caption=self.caption,
            dataset_id=self.dataset_id,
            given=self.types,
            is_typed=data.features is not None,
        )
        as_text = {n for n, kind in kinds.items() if n not in labels and _is_odd(kind)}
        has_bytes = {name for name, kind in kinds.items() if _has_bytes(kind)}
        kept = {
            name: pa.string() if name in as_text or name in labels else kind
            for name, kind in columns.kept.items()
            if name not in has_bytes
        }
        return _Plan(replace(columns, kept=kept), as_text, has_bytes, labels)

    def _plain(self, row: MetadataRow | RowFault) -> MetadataRow | RowFault:
        """A row with the video's path for the video, names for labels, text for odd values."""
        if isinstance(row, RowFault):
            return row
        plan = self._plan
        video = self._path(row.values.get(plan.map.video))
        values = {n: v for n, v in row.values.items() if n not in plan.has_bytes}
        for name, names in plan.labels.items():
            values[name] = names.get(values.get(name, -1))
        for name in plan.as_text:
            values[name] = fit_value(name, values.get(name), pa.string())
        row = replace(row, values=values)
        if isinstance(video, bytes):
            return row.fault(_BYTES)
        if isinstance(video, str) and _CHAINED.match(video):
            return row.fault(_PACKED)
        return replace(row, values={**values, plan.map.video: video})

    def _path(self, video: Any) -> Any:
        """Of what a row holds as its video: the path or URL, or the bytes where these are all."""
        if isinstance(video, dict):
            video = video.get("path") if video.get("bytes") is None else video["bytes"]
        if isinstance(video, str) and (found := _HF.fullmatch(video)):
            # Not the commit that is the newest now: ids come from the URL.
            revision = self.revision if found[1] == self.dataset else found[2]
            video = f"{self.home(found[1], revision)}/{quote(found[3])}"
        return video

    def _open(self) -> Any:
        if self._local is None:
            data = self._asked(self.stream)
        else:
            data = self._asked(lambda: rows_of(str(self._local), self.config, self.split))
        if isinstance(data, dict):
            raise UserError(f"{self.name}: {self.split!r} names no one split of {self.dataset!r}")
        # Videos, pictures and sound stay as they are stored: nothing is decoded here.
        return data if data.features is None else data.decode(False)

    def _asked(self, ask: Callable[[], Any]) -> Any:
        try:
            failures: tuple[type[Exception], ...] = (*self.failures(), ValueError, RuntimeError)
        except ImportError as error:
            raise MissingExtraError(
                f"the source {self.name} needs {error.name}: pip install 'vidcurate[hubs]'"
            ) from error
        try:
            return ask()
        except failures as error:
            where = f"{self.dataset!r}" + (f", file {self.file!r}" if self.file else "")
            remedy = "" if self._local else self.remedy
            raise UserError(
                f"{self.name}: {where} cannot be had: {_one_line(error)}{remedy}"
            ) from error

    def _rows(self) -> Iterator[MetadataRow | RowFault]:
        number = 0
        rows = iter(self._open())
        while True:
            where = f"{self._place}:{number + 1}"
            try:
                row = next(rows)
            except StopIteration:
                return
            except ValueError as error:  # of Arrow and pandas, too
                yield RowFault(
                    where,
                    f"not readable from here on: {_one_line(error)}; a file named with `file` is "
                    "read row by row, so that one bad row spoils no other",
                )
                return
            except self.failures() as error:
                raise UserError(
                    f"{self.name}: {self.dataset!r} broke off after {number} rows: "
                    f"{_one_line(error)}; the same command goes on"
                ) from error
            number += 1
            yield MetadataRow(where, row)


def rows_of(dataset: str, config: str | None, split: str, revision: str | None = None) -> Any:
    """The rows of a hub's data set or of a local folder, by the library `datasets`.

    Raises:
        what `datasets` raises where there is no such data set, config or split.
    """
    import datasets

    return datasets.load_dataset(dataset, config, split=split, revision=revision, streaming=True)


@dataclass(frozen=True)
class _Plan:
    """The map of the columns; those that become text, and those that are left out for their
    bytes; the names of labels' numbers."""

    map: RowMap
    as_text: set[str]
    has_bytes: set[str]
    labels: Mapping[str, Mapping[int, str]]


def _is_odd(kind: pa.DataType) -> bool:
    """Types that no table here holds: kept as text."""
    return isinstance(kind, pa.BaseExtensionType) or pa.types.is_null(kind)


def _has_bytes(kind: pa.DataType) -> bool:
    """Whether bytes (pictures, sound, features) stand anywhere in a type."""
    if pa.types.is_struct(kind):
        return any(_has_bytes(field.type) for field in kind)
    if hasattr(kind, "value_type"):
        return _has_bytes(kind.value_type)
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(test(kind) for test in tests)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
