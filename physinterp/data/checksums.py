"""Sums of what was written, to be compared on opening.

`checksums.json` has size, time of change and SHA-256 of files. A file whose size and time agree is trusted; one that
differs in either is hashed, and refused where the hash differs. Files that it does not list pass. `regions.jsonl` has the
SHA-256 of the values of each region of a converted data set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from physinterp.checkpoint import fingerprint, load_json, save_json
from physinterp.data.remote import Store, location
from physinterp.errors import InputError

NAME = "checksums.json"
REGIONS = "regions.jsonl"


def check(files: Sequence[Path], verify: bool = False) -> None:
    """Compare files with the notes beside them.

    Arguments:
        files: of one folder, at least one.
        verify: hash every file, also those whose size and time agree.
    Raises:
        InputError: a file is damaged or changed since it was written.
    """
    root = root_of(files[0])
    known = notes(root)
    for file in files:
        note = known.get(file.relative_to(root).as_posix())
        if note is None:
            continue
        stat = file.stat()
        if not verify and (stat.st_size, stat.st_mtime_ns) == (note["size"], note["mtime_ns"]):
            continue
        if stat.st_size != note["size"] or sha256(file) != note["sha256"]:
            raise InputError(
                f"{file} ({stat.st_size} bytes) differs from {NAME} ({note['size']} bytes): "
                "it was damaged or changed; delete it and generate or copy it again"
            )


def note(path: Path, temporary: Path, digest: str | None = None) -> None:
    """Note a file before it takes its name, so that a named file is always covered.

    Arguments:
        path: its name to be.
        temporary: where it is now.
        digest: its SHA-256 where it is known.
    """
    root = root_of(path)
    stat = temporary.stat()
    entry = {"sha256": digest or sha256(temporary), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    known = notes(root) | {path.relative_to(root).as_posix(): entry}
    save_json(known, root / NAME)


def notes(root: Path) -> dict[str, Any]:
    """What is noted in a folder: per relative path sha256, size and mtime_ns."""
    path = root / NAME
    return load_json(path) if path.is_file() else {}


def stamp(path: Store) -> str:
    """Short hash that differs when data do: of SHA-256 sums that are noted, else of size and time of change of each file.

    Arguments:
        path: a file or folder; of a URL only the name counts.
    """
    where = location(path)
    if not isinstance(where, Path):
        return fingerprint(str(path))
    files = [where] if where.is_file() else sorted(p for p in where.rglob("*") if p.is_file() and not _beside(p))
    known: dict[Path, dict[str, Any]] = {}
    content = []
    for file in files:
        root, stat = root_of(file), file.stat()
        if root not in known:
            known[root] = notes(root)
        entry = known[root].get(file.relative_to(root).as_posix(), {})
        measured = stat.st_size, stat.st_mtime_ns
        trusted = (entry.get("size"), entry.get("mtime_ns")) == measured
        content.append([file.relative_to(where).as_posix(), entry["sha256"] if trusted else measured])
    return fingerprint(content)


def _beside(path: Path) -> bool:
    """Whether a file only tells of the data."""
    told = path.name in (NAME, REGIONS, "generation.json", "stats.yaml")
    return told or (path.name[0] == "." and not path.name.startswith(".z"))  # of zarr 2 the metadata


def root_of(file: Path) -> Path:
    """Folder of the notes: ROOT of ROOT/data/SPLIT/file, else the folder of the file."""
    return file.parents[2] if len(file.parents) > 2 and file.parents[1].name == "data" else file.parent


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def region(array: Any, sample: int, frames: slice) -> str:
    """Digest of some frames of one trajectory of an array (sample, time, ...)."""
    return hashlib.sha256(np.ascontiguousarray(array[sample, frames]).data).hexdigest()


def check_regions(store: Path, arrays: Mapping[str, Any]) -> None:
    """Compare a zarr store that `convert` wrote with the sums of its regions; one without sums passes.

    Arguments:
        store: FOLDER/SPLIT.zarr.
        arrays: by the name inside of the store.
    Raises:
        InputError: a region differs from what was written.
    """
    path = store.parent / REGIONS
    for line in path.read_text(encoding="utf-8").splitlines()[1:] if path.is_file() else ():
        entry = json.loads(line)
        frames = slice(entry["start"], entry["stop"])
        array = arrays.get(entry["array"]) if entry["split"] == store.stem else None
        if array is not None and region(array, entry["sample"], frames) != entry["sha256"]:
            raise InputError(
                f"{store}: trajectory {entry['sample']}, frames {entry['start']} to {entry['stop'] - 1} differ from what "
                "was written: delete the folder and convert again"
            )
