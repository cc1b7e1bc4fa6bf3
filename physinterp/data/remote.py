"""Files behind a URL (https, s3, gs, hf, ...), read in ranges through fsspec, with patience.

A request that fails for a reason that may pass (no answer in time, a dropped connection, 429, 5xx) is made again after
0.5, 1, 2 and 4 s. If that does not help, the error names the URL.
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import fsspec

from physinterp.errors import InputError

LOGGER = logging.getLogger(__name__)

TRIES = 5
PAUSE = 0.5
"""Seconds before the second try; doubled each time."""
TIMEOUT = 60.0
"""Seconds without a byte after which a connection counts as dropped (http)."""
BLOCK = 1 << 20
"""Bytes of a cached block of a remote file."""
PUBLIC: dict[str, dict[str, Any]] = {"gs": {"token": "anon"}, "gcs": {"token": "anon"}, "s3": {"anon": True}}
"""Buckets are read without an account."""
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub", "http": "aiohttp", "https": "aiohttp"}

FINAL = (ValueError, TypeError, ImportError, NotImplementedError, PermissionError, MemoryError, KeyError)
"""Failures that another try does not mend."""

T = TypeVar("T")


class NoRanges(InputError):
    """A server that sends whole files alone."""


@dataclass(frozen=True, order=True)
class Remote:
    """A file or folder behind a URL, with those parts of `pathlib.Path` that the readers use."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> Remote:
        return Remote(f"{self.url.rstrip('/')}/{name}")

    @property
    def protocol(self) -> str:
        """`https`, `s3`, ..."""
        return self.url.partition("://")[0]

    @property
    def _path(self) -> PurePosixPath:
        return PurePosixPath(self.url.partition("://")[2].partition("?")[0].partition("/")[2])  # without the host

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self._path.name

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return self._path.stem

    @property
    def suffix(self) -> str:
        """`.hdf5`; empty for a folder."""
        return self._path.suffix

    @property
    def parent(self) -> Remote:
        """The folder around it."""
        return Remote(self.url.partition("?")[0].rstrip("/").rpartition("/")[0])

    def info(self) -> dict[str, Any]:
        """What fsspec knows about a file, `size` among it.

        Raises:
            FileNotFoundError: there is none.
            InputError: no answer.
        """
        fs, path = filesystem(self.url)
        return dict(retried(self.url, lambda: fs.info(path)))

    def is_file(self) -> bool:
        """Whether there is a file; over http, where every address looks like one, it needs a suffix too."""
        if self.protocol.startswith("http") and not self.suffix:
            return False
        try:
            return bool(self.info()["type"] == "file")
        except FileNotFoundError:
            return False

    def is_dir(self) -> bool:
        """Whether there is a folder with something in it."""
        return not self.is_file() and any(True for _ in self.iterdir())

    def exists(self) -> bool:
        """Whether there is a file or a folder with something in it."""
        return self.is_file() or any(True for _ in self.iterdir())

    def iterdir(self) -> Iterator[Remote]:
        """What a folder holds, nothing where there is no folder; over http the links of its index page."""
        fs, path = filesystem(self.url)
        try:
            found = retried(self.url, lambda: fs.ls(path, detail=False))
        except (FileNotFoundError, NotADirectoryError):
            return
        yield from (Remote(str(fs.unstrip_protocol(name)).rstrip("/")) for name in found)

    def fetch(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`.

        Raises:
            NoRanges: the server sends the whole file instead of a part.
            InputError: no answer.
        """
        fs, path = filesystem(self.url)

        def ask() -> bytes:
            data: bytes = fs.cat_file(path, start=start, end=end)
            if len(data) > end - start:
                raise NoRanges(f"{self.url}: the server does not send parts of files: download it and give its path")
            if len(data) < end - start:
                raise OSError(f"{len(data)} of {end - start} bytes came")
            return data

        return retried(self.url, ask)

    def read(self) -> bytes:
        """The whole file."""
        fs, path = filesystem(self.url)
        return bytes(retried(self.url, lambda: fs.cat_file(path)))

    def open(self) -> RemoteFile:
        """The file, to be read anywhere."""
        return RemoteFile(self)


Store = Path | str
"""A local path, or a URL as a string."""
Location = Path | Remote
"""A local path, or a remote one."""


def located(data: Path | str) -> Store:
    """A URL as it is, anything else as a path."""
    if isinstance(data, str) and "://" in data and not data.startswith("file://"):
        return data
    return Path(str(data).removeprefix("file://")).expanduser()


def location(data: Path | str | Remote) -> Location:
    """The same with something to be read behind the URL."""
    found = data if isinstance(data, Remote) else located(data)
    return Remote(found) if isinstance(found, str) else found


class RemoteFile(io.RawIOBase):
    """A remote file as a binary stream: small reads come from cached blocks, large ones are one request."""

    def __init__(self, remote: Remote) -> None:
        self.remote, self.position = remote, 0
        size = remote.info().get("size")  # asked here: once h5py reads from us, it holds its lock
        if size is None:
            raise InputError(f"{remote}: the server does not say how long the file is: download it and give its path")
        self.size = int(size)

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Position in bytes."""
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        self.position = base + offset
        return self.position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the position on."""
        view = memoryview(buffer).cast("B")
        start, end = self.position, min(self.position + len(view), self.size)
        with _uncollected():
            if end - start >= BLOCK:
                view[: end - start] = self.remote.fetch(start, end)
            else:
                for number in range(start // BLOCK, -(-end // BLOCK)):
                    first = number * BLOCK
                    block = _block(self.remote, number, self.size)
                    a, b = max(start, first), min(end, first + len(block))
                    view[a - start : b - start] = block[a - first : b - first]
        self.position = max(start, end)
        return max(end - start, 0)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection: h5py holds its lock while it reads from us, and fsspec's thread, which answers, would wait for
    that lock for ever if it happened to collect an object of h5py."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@lru_cache(maxsize=64)
def _block(remote: Remote, number: int, size: int) -> bytes:
    return remote.fetch(number * BLOCK, min((number + 1) * BLOCK, size))


def filesystem(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path in it.

    Raises:
        InputError: an unknown protocol, or its package is not installed.
    """
    try:
        return fsspec.core.url_to_fs(url, **storage_options(url))  # type: ignore[no-any-return]
    except ImportError as error:
        raise missing(url, error) from error
    except ValueError as error:
        raise InputError(f"{url}: {error}; expected https://, s3://, gs:// or hf://") from error


def storage_options(url: str) -> dict[str, Any]:
    """What fsspec is told: no account, and how long to wait."""
    protocol = url.partition("://")[0]
    if not protocol.startswith("http"):
        return PUBLIC.get(protocol, {})
    from aiohttp import ClientTimeout

    return {"client_kwargs": {"timeout": ClientTimeout(sock_connect=TIMEOUT, sock_read=TIMEOUT)}}


def missing(store: object, error: ImportError) -> InputError:
    """What to install, as a message."""
    package = PACKAGES.get(str(store).partition("://")[0])
    remedy = f"pip install {package}" if package else "install what it names"
    return InputError(f"{store}: a package is missing ({error}): {remedy}")


def retried(url: str, call: Callable[[], T], what: str = "") -> T:
    """The result of a request, tried `TRIES` times.

    Arguments:
        url: for messages.
        call: asks.
        what: it asks for, put into the message.
    Raises:
        FileNotFoundError, PermissionError: what the server says for good.
        InputError: it does not answer; the message names the URL.
    """
    reason = ""
    for attempt in range(TRIES):
        if attempt:
            pause = PAUSE * 2 ** (attempt - 1)
            LOGGER.warning("%s: %s; attempt %d of %d in %g s", url, reason, attempt + 1, TRIES, pause)
            time.sleep(pause)
        try:
            return call()
        except Exception as error:
            cause = _passing(error)
            if cause is None:
                raise
            reason, last = " ".join(str(cause).split()) or type(cause).__name__, cause
    raise InputError(
        f"{url}: {what}no answer after {TRIES} tries ({reason}); check the network, and run the same command again: "
        "what has come is kept"
    ) from last


def _passing(error: BaseException) -> BaseException | None:
    """The failure that another try may mend, or None: not that a file is absent or forbidden, nor a mistake of ours."""
    cause = error.__cause__ if isinstance(error, FileNotFoundError) else error  # fsspec calls every failed HEAD absent
    if cause is None or isinstance(cause, FINAL):
        return None
    status = getattr(cause, "status", None)  # of an HTTP answer
    return cause if status is None or status == 429 or status >= 500 else None
