"""Copying of remote files: what is interrupted goes on where it stopped, what arrives is compared with its checksum.

A file in progress is `NAME.KEY.part`, where KEY stands for address, size and version of the remote file: the parts of two
versions are never mixed. Its sum is compared with what the source says (`checksums.json` or `SHA256SUMS` beside the files,
or the store itself, as Hugging Face does), and noted in `checksums.json`, which `open_dataset` checks.
"""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from physinterp.checkpoint import fingerprint
from physinterp.data import archive, checksums
from physinterp.data.remote import NoRanges, Remote, filesystem, retried
from physinterp.errors import InputError
from physinterp.system import near

BLOCK = 8 << 20
"""Bytes of one request."""
SUMS = (checksums.NAME, "SHA256SUMS")


@dataclass(frozen=True)
class Item:
    """A remote file and where it goes.

    Attributes:
        remote: the file.
        path: its copy.
        info: what the store knows of it.
        sha256: what the source says its sum is, if it does.
    """

    remote: Remote
    path: Path
    info: dict[str, Any]
    sha256: str | None

    @property
    def size(self) -> int:
        """Bytes; 0 where the source does not say."""
        return int(self.info.get("size") or 0)

    @property
    def part(self) -> Path:
        """The copy in progress."""
        version = {k: str(self.info.get(k)) for k in ("size", "ETag", "etag", "mtime", "LastModified", "blob_id")}
        return self.path.with_name(f"{self.path.name}.{fingerprint([self.remote.url, version])}.part")

    @property
    def done(self) -> bool:
        """Whether the copy is there."""
        return self.path.is_file() and (not self.size or self.path.stat().st_size == self.size)

    @property
    def left(self) -> int:
        """Bytes that are still to come."""
        return 0 if self.done else self.size - (self.part.stat().st_size if self.part.is_file() else 0)


def plan(url: str, folder: str | Path, patterns: Sequence[str] = ("*",)) -> list[Item]:
    """The files of a remote file or folder that match, and where they go.

    Arguments:
        url: of a file, or of a folder, whose tree is kept.
        folder: where to.
        patterns: of the paths below `url`, such as `data/train/*Rayleigh_1e6*`.
    Raises:
        InputError: nothing matches, or nobody answers; the message names the URL.
    """
    root, folder = Remote(url.rstrip("/")), Path(folder).expanduser()
    if root.is_file():
        return [_item(root, folder / root.name, None)]
    below = {unquote(remote.url.removeprefix(f"{root.url}/")): remote for remote in _walk(root)}
    sums = _sums(root)
    chosen = [name for name in sorted(below) if any(fnmatch.fnmatch(name, p) for p in patterns) and name not in SUMS]
    if not chosen:
        none = f"no file matches {', '.join(patterns)}: {near(patterns[0], list(below)[:50])}"
        raise InputError(f"{url}: {none if below else 'no such file or folder'}")
    for name in chosen:
        if ".." in name.split("/") or Path(name).is_absolute():
            raise InputError(f"{url}: the file {name!r} lies outside of the folder; do not use this source")
    return [_item(below[name], folder / name, sums.get(name)) for name in chosen]


def fetch(item: Item, report: Callable[[int], None] = lambda n: None) -> Path:
    """Copy one file, or what is missing of it; an archive is unpacked beside itself.

    Arguments:
        item: see `plan`.
        report: called with the number of bytes that came.
    Raises:
        InputError: nobody answers (what came is kept), or the sum differs (the copy is deleted).
    """
    if item.done:
        return item.path
    item.path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _in_blocks(item, report)
    except NoRanges:
        fs, path = filesystem(item.remote.url)
        retried(item.remote.url, lambda: fs.get_file(path, str(item.part)))
        report(item.part.stat().st_size)
    digest = checksums.sha256(item.part)
    if item.sha256 is not None and digest != item.sha256:
        item.part.unlink()
        raise InputError(
            f"{item.remote}: what came has SHA-256 {digest[:12]}..., expected {item.sha256[:12]}...: run the command again"
        )
    checksums.note(item.path, item.part, digest)
    os.replace(item.part, item.path)
    if archive.is_archive(item.path):
        archive.unpack(item.path, item.path.parent)
    return item.path


def _in_blocks(item: Item, report: Callable[[int], None]) -> None:
    if not item.size:
        raise NoRanges(f"{item.remote}: the server does not say how long the file is")
    with item.part.open("ab") as file:
        while (start := file.tell()) < item.size:
            data = item.remote.fetch(start, min(start + BLOCK, item.size))
            file.write(data)
            file.flush()
            report(len(data))


def _walk(folder: Remote) -> list[Remote]:
    """All files below a folder."""
    found = []
    for entry in folder.iterdir():
        if not entry.url.startswith(f"{folder.url}/") or entry.name.startswith("."):
            continue  # an index page also links to its parent
        found += [entry] if entry.is_file() else _walk(entry)
    return found


def _item(remote: Remote, path: Path, sha256: str | None) -> Item:
    info = remote.info()
    return Item(remote, path, info, sha256 or (info.get("lfs") or {}).get("sha256"))


def _sums(root: Remote) -> dict[str, str]:
    """SHA-256 by path, where the source has a list."""
    for name in SUMS:
        try:
            text = (root / name).read().decode()
        except FileNotFoundError:
            continue
        if name == checksums.NAME:
            return {path: note["sha256"] for path, note in json.loads(text).items()}
        pairs = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
        return {path.lstrip("*").removeprefix("./"): digest for digest, path in pairs}
    return {}
