"""Encoded states: written once, memory-mapped, made anew where the codec or the data change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_records import own

from physinterp.config import Training, load_benchmark
from physinterp.data import latents
from physinterp.errors import InputError
from physinterp.runs import Runs
from physinterp.system import load_system


def test_parts_make_an_array_that_is_mapped(tmp_path):
    path, values = tmp_path / "a.npy", np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    latents.write(path, values.shape, (values[n, i : i + 2] for n in range(2) for i in (0, 2)))
    found = latents.read(path)
    assert torch.equal(found, torch.from_numpy(values)) and np.array_equal(np.load(path), values)
    assert str(path) in Path("/proc/self/maps").read_text()
    found[0] = 7  # a copy of the page, not the file
    assert np.array_equal(np.load(path), values)


def test_nothing_half_written_and_damage_is_named(tmp_path):
    def stopped():
        yield np.zeros(3, dtype=np.float32)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        latents.write(tmp_path / "a.npy", (2, 3), stopped())
    assert not list(tmp_path.iterdir())
    latents.write(tmp_path / "a.npy", (2, 3), [np.zeros(6, dtype=np.float32)])
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-8])
    with pytest.raises(InputError, match=r"a\.npy is damaged"):
        latents.read(tmp_path / "a.npy")


def test_made_once_for_a_codec_and_data(fresh_home, tmp_path, monkeypatch):
    folder = own(tmp_path / "a", size=8)
    card = load_system(folder / "card.yaml")
    networks = {"dcae": {"latent_channels": 3, "widths": [8], "patch": 2}}
    plan = Training(steps=4, batch=4)
    preset = load_benchmark(card).preset("tiny").model_copy(update={"networks": networks, "training": plan})
    written: list[Path] = []
    write = latents.write
    monkeypatch.setattr(latents, "write", lambda path, *a: written.append(path) or write(path, *a))

    def states(**options) -> torch.Tensor:
        return Runs(card, preset, "a", root=tmp_path / "runs", data=folder, **options).pairs("train", "dcae").states

    first = states()
    assert first.shape == (3, 12, 3, 4, 6) and len(written) == 1
    assert torch.equal(states(), first) and len(written) == 1  # by another process, too
    np.save(folder / "train.npy", np.load(folder / "train.npy") * 2)
    assert not torch.equal(states(), first) and len(written) == 2  # other data, the same codec
    assert len(set(written)) == 2 and all(path.is_file() for path in written)
