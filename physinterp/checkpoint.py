"""Writing and reading of weights and records: safetensors beside JSON, written beside and renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from physinterp.errors import InputError

ROOM = 1 << 20  # bytes; a disk with less is full


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name when the block ends well, and is removed when it does not.

    The block may make a file or a folder there.

    Raises:
        InputError: no space is left on the device.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part, old = (path.with_name(f".{path.name}.{os.getpid()}.{suffix}") for suffix in ("part", "old"))
    try:
        yield part
        if part.is_dir() and path.is_dir():  # a folder cannot be renamed onto one
            os.replace(path, old)
        os.replace(part, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        if full or shutil.disk_usage(path.parent).free < ROOM:  # netCDF and HDF5 do not say why they cannot write
            raise InputError(f"no space left to write {path}: free some, or write elsewhere") from error
        raise
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)
        for leftover in (part, old):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, whole or not at all."""
    with replacing(path) as part:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, part)


def save_json(value: Any, path: Path) -> None:
    """Write JSON, whole or not at all; a number that is not finite becomes null."""
    with replacing(path) as part:
        part.write_text(json.dumps(_finite(value), indent=1) + "\n", encoding="utf-8")


def fingerprint(value: Any) -> str:
    """Short hash of a JSON value: the key of a cache."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    return value


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Reading of one of our own files.

    Raises:
        InputError: the file is damaged; the message names it.
    """
    try:
        yield
    except (InputError, FileNotFoundError, PermissionError):
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError) as error:
        reason = " ".join(str(error).split())[:200]
        state = "is damaged, or of another version" if isinstance(error, RuntimeError) else "is damaged"
        raise InputError(f"{path} {state} ({reason}): delete it and run the command again") from error


def load_json(path: Path) -> Any:
    """Read JSON."""
    with reading(path):
        return json.loads(path.read_text(encoding="utf-8"))


def load_tensors(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """Read safetensors."""
    with reading(path):
        return load_file(path, device=device)


def digest(path: Path) -> str | None:
    """Short SHA-256 sum of a file, None where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.is_file() else None
