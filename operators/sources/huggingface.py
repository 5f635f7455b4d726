"""Hugging Face: a data set of the hub, or a local copy, as a source."""

from __future__ import annotations

from typing import Any, ClassVar

from vidcurate import HubSource, rows_of


class Huggingface(HubSource):
    """Videos named by a data set of the Hugging Face hub, by a local copy, or by one file in it.

    dataset: the id (MBZUAI/VideoInstruct-100K), or the path of a local folder or file.
    config, split, revision: which part (default: the default config, train, the newest).
    file: one file in the data set (CSV, JSONL, JSON, Parquet), read row by row.
    adapter, options: the source that reads that file (or a local folder of such files), such as
        panda70m, and its other parameters. Without it the columns are mapped as by `table`:
    column: names the video: a column of videos, paths or URLs (default: path, file, url, video).
    start, end, caption, dataset_id, types: as in `table`.
    base: the folder, or the URL, that relative paths start from (default: the folder of `file`,
        else that of the data set, in the local copy or on the hub).

    Rows are streamed by the library `datasets`, videos are not decoded and nothing is downloaded
    but the rows; a `file` is downloaded to the hub's cache. All other columns are kept with their
    types; labels by their names, columns of bytes (pictures, sound) not at all. A row that holds
    the bytes of its video, or names one in an archive, goes to the quarantine. `datasets` reads
    CSV and JSON in blocks: after a malformed row it can read no more, and the CSV's 007 is 7 to it;
    a `file` is the remedy.

    HF_ENDPOINT names a mirror of the hub, HF_TOKEN opens data sets that ask for a login; the videos
    themselves are then downloaded without that token.
    """

    name: ClassVar[str] = "huggingface"
    hub: ClassVar[str] = "https://huggingface.co"
    remedy: ClassVar[str] = (
        "; check the name and the network (HF_ENDPOINT names a mirror, HF_TOKEN opens what asks "
        "for a login), or give the path of a local copy"
    )

    def download(self, file: str) -> str:
        """The local path of one file of the data set, in the hub's cache."""
        from huggingface_hub import hf_hub_download

        return str(hf_hub_download(self.dataset, file, repo_type="dataset", revision=self.revision))

    def stream(self) -> Any:
        """The rows, streamed from the hub."""
        return rows_of(self.dataset, self.config, self.split, self.revision)

    def failures(self) -> tuple[type[Exception], ...]:
        """What `datasets` and `huggingface_hub` raise where something cannot be had."""
        from datasets.exceptions import DatasetsError
        from huggingface_hub.errors import HfHubHTTPError

        # Its bases are OSError and the error of the HTTP library that the hub's client uses.
        return (OSError, DatasetsError, *HfHubHTTPError.__bases__)

    def home(self, dataset: str, revision: str | None) -> str:
        """The URL below which the files of a data set lie."""
        from huggingface_hub import hf_hub_url

        url: str = hf_hub_url(dataset, "-", repo_type="dataset", revision=revision)
        return url.removesuffix("/-")
