"""The errors vidcurate raises.

Two families: a `UserError` is a mistake that the person at the keyboard can mend
(the command line prints it and exits with 2), a `DataError` is a fault of one video,
clip or metadata row (the runner writes it to the quarantine and goes on).
"""

from __future__ import annotations

from typing import ClassVar


class VidcurateError(Exception):
    """Base of every error that vidcurate raises on purpose.

    `exit_status`: what the command line ends with.
    """

    exit_status: ClassVar[int] = 1


class UserError(VidcurateError):
    """A mistake in a recipe, an operator or a command; exit status 2."""

    exit_status: ClassVar[int] = 2


class RecipeError(UserError):
    """A recipe that cannot be used. The message names file, line, key and remedy.

    One recipe can hold several mistakes: `problems` has one message for each.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class OperatorError(UserError):
    """An operator that is declared wrongly, unknown, or cannot be loaded."""


class RunDirectoryError(UserError):
    """A run directory that is missing, foreign, damaged or in use by another writer."""


class StorageError(RunDirectoryError):
    """A run directory that cannot be written any more (a full disk); what is committed is kept.

    The run has failed through no mistake in what was asked: exit status 1.
    """

    exit_status: ClassVar[int] = 1


class QueryError(UserError):
    """A selection or SQL query that DuckDB refuses; the message carries its reason."""


class ModelError(UserError):
    """A model's weights cannot be had or loaded; says which, and the remedy."""


class MissingExtraError(UserError):
    """An operator needs a package of an optional extra that is not installed."""


class DivergedError(VidcurateError):
    """A training whose loss or gradients are not finite; names the samples and the remedy."""


class DataError(VidcurateError):
    """A fault of one video, clip or row; ends in the quarantine, the run goes on.

    `transient` says whether a later try may succeed (`vidcurate retry` takes these);
    a class sets the usual answer, an instance may differ.
    """

    transient: ClassVar[bool] = False

    def __init__(self, message: str, *, transient: bool | None = None) -> None:
        super().__init__(message)
        self.is_transient = self.transient if transient is None else transient


class RowError(DataError):
    """A metadata row that a source cannot read."""


class AcquireError(DataError):
    """The bytes of a video could not be had: missing file, refused or failed download."""


class VideoGoneError(AcquireError):
    """The host no longer has the video: not found, removed, its account closed."""


class VideoPrivateError(AcquireError):
    """The host shows the video to some people only: private, members, a login, an age check."""


class VideoRegionError(AcquireError):
    """The host does not show the video from here: region or legal reasons."""


class OptOutError(AcquireError):
    """The host asks not to use the video for this (`X-Robots-Tag`)."""


class ThrottledError(AcquireError):
    """The host answers too many requests, also with a 403 or a check for robots."""

    transient: ClassVar[bool] = True


class TransferError(AcquireError):
    """A download that broke off, stalled or met a fault of the server."""

    transient: ClassVar[bool] = True


class RefusedMediaError(DataError):
    """A file that is not opened on purpose: not a video, a playlist, beyond a limit."""


class UnsupportedMediaError(DataError):
    """A real media file of a kind that is not handled: no video stream, no decoder."""


class DecodeError(DataError):
    """A stream that the decoder gave up on."""


class MissingSectionError(DataError):
    """A read of what was not downloaded of a file (`acquire.download.sections`)."""


class CutError(DataError):
    """A clip that could be neither copied nor encoded exactly."""


class DamagedSampleError(DataError):
    """A packed sample whose bytes are not those that were packed."""


class ScoreError(DataError):
    """An operator failed on a clip."""


class WorkerCrashError(DataError):
    """The decode process of a video died (a crash inside a codec library, for example)."""


class WorkerTimeoutError(DataError):
    """The decode process of a video hung or ran past its time limit."""

    transient: ClassVar[bool] = True


class WorkerMemoryError(DataError):
    """The decode process of a video went past its memory limit."""

    transient: ClassVar[bool] = True


class StoreError(DataError):
    """A shard that cannot be read where it lies; the message names the place and the remedy."""


class ShardMissingError(StoreError):
    """An index names a shard that is not there."""


class ShardTruncatedError(StoreError):
    """A shard that ends before a sample that its index says it holds."""


class StoreRefusedError(StoreError):
    """A store that does not let us read: no permission, wrong credentials, no byte ranges."""


class StoreFailedError(StoreError):
    """A store that failed or broke off, each time that it was asked."""

    transient: ClassVar[bool] = True


class StoreStalledError(StoreError):
    """A store that did not answer in time, each time that it was asked."""

    transient: ClassVar[bool] = True


def is_interrupt(error: BaseException) -> bool:
    """True for a Ctrl-C; DuckDB turns one that comes during a query into an error of its own."""
    return isinstance(error, KeyboardInterrupt) or (
        isinstance(error, RuntimeError) and str(error) == "Query interrupted"
    )
