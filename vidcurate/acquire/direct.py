"""Downloading a file by http(s): resumed, checked, within limits. How the host is asked is in
`acquire.http`.
"""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from vidcurate.acquire.answers import HEAD, is_page
from vidcurate.acquire.cache import check_free
from vidcurate.acquire.http import Transfer, check_size, content_range, validator_of
from vidcurate.acquire.limits import HostLimits
from vidcurate.errors import AcquireError, TransferError
from vidcurate.recipe.model import Acquire, Download

if TYPE_CHECKING:
    import httpx

_LOOK_AT_DISK = 64 * 1024**2  # bytes between looks at the free space


def download(
    url: str, cfg: Acquire, part: Path, limits: HostLimits, stop: threading.Event
) -> str | None:
    """Download a URL to the file `part`; the hex sha256 of its bytes.

    None where the answer is no file but a page or a playlist (HTML, HLS, DASH): nothing is left
    at `part` then.

    What `part` holds of an earlier try is gone on with, where the host says that the file is still
    the same (Range, If-Range with its ETag or Last-Modified, remembered in `part`.json). Transient
    failures are tried again, `download.tries` times in all; cfg.timeout bounds the seconds of
    transfer of all tries together, not the waiting for the host's turn. The cookies of
    `download.cookies` (or VIDCURATE_COOKIES) go to the hosts that they name.

    Raises:
        AcquireError: and its classes; transient ones leave `part` for a later run.
        StorageError: less than cfg.min_free would be left.
        MissingExtraError: httpx, or for a SOCKS proxy socksio, is not installed.
        UserError: the cookies' file cannot be read, or a proxy is no valid one.
        Stopped: `stop` was set; `part` stays.
        OSError: `part` cannot be written.
    """
    assert cfg.download
    return _Download(url, cfg, cfg.download, part, stop).run(limits)


class _Download(Transfer["str | None"]):
    """The tries of one download."""

    def __init__(
        self, url: str, cfg: Acquire, options: Download, part: Path, stop: threading.Event
    ) -> None:
        super().__init__(url, cfg, options, stop)
        self._part = part
        self._told = part.with_name(f"{part.name}.json")  # what validates `part`

    def drop(self) -> None:
        """Remove what came so far."""
        self._part.unlink(missing_ok=True)
        self._told.unlink(missing_ok=True)

    def _get(self) -> str | None:
        offset, validator = self._resumable()
        with self._answer(f"bytes={offset}-" if offset else "", validator) as answer:
            if answer.status_code != 206:
                offset = 0
            total = self._total(answer, offset, validator)
            check_size(max(total or 0, offset), self._cfg, self._shown)
            check_free(self._part.parent, self._cfg, max(0, (total or 0) - offset))
            if offset == 0:
                self.drop()
                if told := validator_of(answer):
                    self._told.write_text(json.dumps({"validator": told}), encoding="utf-8")
            digest, size = self._write(answer, offset)
        if digest is None:
            self.drop()
            return None
        if total is not None and size != total:
            raise TransferError(
                f"{self._shown}: the connection ended after {size} of {total} bytes"
            )
        return digest

    def _write(self, answer: httpx.Response, offset: int) -> tuple[str | None, int]:
        """Write the body behind the first `offset` bytes; sha256 (None: a page) and size of all."""
        digest, head = hashlib.sha256(), b""
        if offset:
            with self._part.open("rb") as file:
                head = file.read(HEAD)
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256")
        size = looked = offset
        is_known = len(head) >= HEAD
        kind = answer.headers.get("content-type", "")
        with self._part.open("ab") as file:
            for chunk in answer.iter_bytes():
                size += len(chunk)
                check_size(size, self._cfg, self._shown)
                self._check_time()
                digest.update(chunk)
                file.write(chunk)
                if not is_known:
                    head += chunk[:HEAD]
                    is_known = len(head) >= HEAD
                    if is_known and is_page(head, kind, self._shown):
                        return None, size
                if size - looked >= _LOOK_AT_DISK:
                    check_free(self._part.parent, self._cfg)
                    looked = size
        if size == 0:
            raise AcquireError(f"{self._shown}: the answer is empty")
        if not is_known and is_page(head, kind, self._shown):
            return None, size
        return digest.hexdigest(), size

    def _resumable(self) -> tuple[int, str]:
        """Bytes at hand and what validates them; (0, "") where there are none to go on with."""
        try:
            told = json.loads(self._told.read_text(encoding="utf-8"))
            return self._part.stat().st_size, told["validator"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return 0, ""

    def _total(self, answer: httpx.Response, offset: int, validator: str) -> int | None:
        """Bytes of the whole file, where the answer says it."""
        if answer.status_code == 200:
            stated = answer.headers.get("content-length", "")
            is_plain = answer.headers.get("content-encoding", "identity") == "identity"
            return int(stated) if stated.isdecimal() and is_plain else None
        found = content_range(answer, validator)
        if found is None or found[0] != offset:
            self.drop()
            raise TransferError(f"{self._shown}: the file has changed since its first part came")
        return found[1]

    def _check(self, answer: httpx.Response, *, is_part: bool) -> None:
        if answer.status_code == 416 and is_part:
            # What is at hand is as long as the file or longer: it must be of another one.
            self.drop()
            raise TransferError(f"{self._shown}: the part at hand does not fit the file")
        super()._check(answer, is_part=is_part)
