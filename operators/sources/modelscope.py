"""ModelScope: a data set of the hub, or a local copy, as a source."""

from __future__ import annotations

import os
from typing import Any, ClassVar
from urllib.parse import quote

from vidcurate import HubSource, rows_of

# What rows are read from. Media stay on the hub.
_KINDS = ("csv", "tsv", "json", "jsonl", "parquet", "arrow")
_ROWS = ["README.md", *(f"*.{kind}{gz}" for kind in _KINDS for gz in ("", ".gz"))]


class Modelscope(HubSource):
    """Videos named by a data set of the ModelScope hub, by a local copy, or by one file in it.

    dataset: the id (AI-ModelScope/panda-70m), or the path of a local folder or file.
    config, split, revision: which part (default: the default config, train, master).
    file: one file in the data set (CSV, JSONL, JSON, Parquet), read row by row.
    adapter, options: the source that reads that file (or a local folder of such files), such as
        panda70m, and its other parameters. Without it the columns are mapped as by `table`:
    column: names the video: a column of videos, paths or URLs (default: path, file, url, video).
    start, end, caption, dataset_id, types: as in `table`.
    base: the folder, or the URL, that relative paths start from (default: the folder of `file`,
        else that of the data set, in the local copy or on the hub).

    The files of rows (CSV, JSON, Parquet) are downloaded to the hub's cache by the library
    `modelscope`, videos and archives are not; the rows are then streamed by `datasets`, as in
    `huggingface`. (The loader of `modelscope` itself does not run with current releases of
    `datasets`.)

    MODELSCOPE_ENDPOINT names another address of the hub, MODELSCOPE_API_TOKEN opens data sets that
    ask for a login; the videos themselves are then downloaded without that token.
    """

    name: ClassVar[str] = "modelscope"
    hub: ClassVar[str] = "https://modelscope.cn"
    remedy: ClassVar[str] = (
        "; check the name and the network (MODELSCOPE_API_TOKEN opens what asks for a login), or "
        "give the path of a local copy"
    )

    def download(self, file: str) -> str:
        """The local path of one file of the data set, in the hub's cache."""
        from modelscope import dataset_file_download

        return str(dataset_file_download(self.dataset, file, revision=self.revision))

    def stream(self) -> Any:
        """The rows, streamed from the files that were downloaded."""
        from modelscope import dataset_snapshot_download

        folder = dataset_snapshot_download(
            self.dataset, revision=self.revision, allow_patterns=_ROWS
        )
        return rows_of(str(folder), self.config, self.split)

    def failures(self) -> tuple[type[Exception], ...]:
        """What `modelscope` and `datasets` raise where something cannot be had."""
        from datasets.exceptions import DatasetsError
        from modelscope.hub.errors import HubError

        return (OSError, DatasetsError, HubError)

    def home(self, dataset: str, revision: str | None) -> str:
        """The URL below which the files of a data set lie."""
        hub = os.environ.get("MODELSCOPE_ENDPOINT", self.hub).rstrip("/")
        return f"{hub}/datasets/{dataset}/resolve/{quote(revision or 'master', safe='')}"
