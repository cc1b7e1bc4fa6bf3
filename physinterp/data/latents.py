"""States encoded by a codec: written once, in order, then read through a memory map."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from physinterp.checkpoint import reading, replacing


def write(path: Path, shape: Sequence[int], parts: Iterable[np.ndarray]) -> None:
    """Write an array part by part, whole or not at all; memory holds one part.

    Arguments:
        path: NumPy's .npy file.
        shape: of the array, float32.
        parts: its values in order.
    """
    with replacing(path) as beside, beside.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype="<f4").data)


def read(path: Path) -> Tensor:
    """The array, memory-mapped: what is not looked at is not read, and nothing that is changed reaches the file."""
    with reading(path):
        return torch.from_numpy(np.lib.format.open_memmap(path, mode="c"))
