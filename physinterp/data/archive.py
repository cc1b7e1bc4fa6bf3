"""Zip and tar archives from elsewhere: nothing in them may leave the folder into which it is unpacked."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from physinterp.errors import InputError

SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz")


def is_archive(path: Path) -> bool:
    """Whether a file is to be unpacked, by its name."""
    return path.name.endswith(SUFFIXES)


def members(path: Path) -> list[str]:
    """Names of the files in a zip archive (an `.npz` is one).

    Raises:
        InputError: it is no zip archive, or a name points outside of its folder.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        size = path.stat().st_size if path.is_file() else 0
        raise InputError(f"{path} ({size} bytes): no readable zip archive ({error}); copy or download it again") from error
    for name in names:
        _check(path, name)
    return names


def unpack(path: Path, folder: Path) -> None:
    """Unpack an archive into a folder.

    Raises:
        InputError: it is damaged, or a member points outside of the folder; nothing is unpacked then.
    """
    if path.suffix == ".zip":
        members(path)
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
        return
    try:
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                _check(path, member.name)
                if member.issym() or member.islnk():
                    raise InputError(f"{path}: member {member.name!r} is a link; unpack it yourself where you trust it")
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError) as error:
        raise InputError(f"{path}: no readable tar archive ({error}); copy or download it again") from error


def _check(path: Path, name: str) -> None:
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or ":" in name.partition("/")[0]:
        raise InputError(f"{path}: member {name!r} points outside of its folder; do not use this archive")
