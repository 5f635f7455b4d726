"""Folder: all video files below a folder."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from vidcurate import RowFault, Source, UserError, VideoRow

# fmt: off
SUFFIXES = frozenset((
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".m1v", ".m2ts", ".m2v",
    ".m4v", ".mjpeg", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf",
    ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".y4m",
))
# fmt: on
"""Endings (in lower case) of the files that are taken."""


class Folder(Source):
    """Every video file of a folder and the folders below it.

    path: the folder, or one video file.
    pattern: only files whose path below the folder (or, without a slash in the pattern, whose
        name) matches, as "*.mp4" or "day1/*"; case matters.

    Files count by the ending of their name, which says nothing of their content: that is probed
    later. Hidden files and folders (a dot in front) are passed over. Symbolic links are followed.
    Run directories of vidcurate are passed over, so that an output may lie below the input.
    The order is that of the names, folder by folder. The path below `path` is the video's
    dataset_id and part of its id, so that a folder may be moved. A folder that cannot be read,
    and a link that leads back to a folder above it, go to the quarantine.
    """

    name: ClassVar[str] = "folder"

    path: str
    pattern: str | None = None

    def videos(self) -> Iterator[VideoRow | RowFault]:
        """The videos in order of their names.

        Raises:
            UserError: `path` does not exist or cannot be read.
        """
        # One file has one location, wherever the command was given.
        root = Path(self.path).expanduser().resolve()
        if root.is_file():
            yield VideoRow(str(root), relative=root.name, dataset_id=root.name)
            return
        if not root.is_dir():
            raise UserError(
                f"folder: {root} does not exist; set the source's path, or give --input PATH"
            )
        try:
            os.scandir(root).close()
        except OSError as error:
            raise UserError(f"folder: {root} cannot be read: {error.strerror}") from error
        yield from self._walk(root, "", ())

    def _walk(
        self, folder: Path, below: str, above: tuple[tuple[int, int], ...]
    ) -> Iterator[VideoRow | RowFault]:
        """The videos of `folder`, whose path below the root is `below`; `above` are the ids of
        the folders on the way."""
        try:
            status = folder.stat()
            me = status.st_dev, status.st_ino
            if me in above:
                yield RowFault(str(folder), "a symbolic link back to a folder above it: left out")
                return
            with os.scandir(folder) as entries:
                found = sorted((e.name, e.is_dir()) for e in entries if not e.name.startswith("."))
        except OSError as error:
            yield RowFault(str(folder), f"the folder cannot be read: {error.strerror}")
            return
        if {("run.json", False), ("manifests", True)} <= set(found):
            return
        for name, is_folder in found:
            relative = f"{below}/{name}" if below else name
            if is_folder:
                yield from self._walk(folder / name, relative, (*above, me))
            elif os.path.splitext(name)[1].lower() in SUFFIXES and self._wanted(relative, name):
                yield _row(folder / name, relative)

    def _wanted(self, relative: str, name: str) -> bool:
        if self.pattern is None:
            return True
        return fnmatch.fnmatchcase(relative if "/" in self.pattern else name, self.pattern)


def _row(path: Path, relative: str) -> VideoRow | RowFault:
    try:
        relative.encode()
    except UnicodeEncodeError:  # tables hold UTF-8 only
        shown = os.fsencode(path).decode(errors="replace")
        return RowFault(shown, "the file's name is not valid UTF-8: rename it")
    return VideoRow(str(path), relative=relative, dataset_id=relative)
