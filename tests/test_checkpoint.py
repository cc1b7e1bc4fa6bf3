"""Files are written beside and renamed: whole or not at all."""

from __future__ import annotations

import errno
import json
import os

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from physinterp import checkpoint
from physinterp.checkpoint import fingerprint, load_json, replacing, save_json, save_tensors
from physinterp.errors import InputError


def test_a_file_takes_its_name_at_the_end(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as part:
        part.write_text("one")
        assert not path.exists() and part.parent == path.parent
    assert path.read_text() == "one"
    with replacing(path) as part:
        part.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two" and os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("folder", [False, True])
def test_what_is_not_finished_disappears(tmp_path, error, folder):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as part:
        if folder:
            (part / "deep").mkdir(parents=True)
            (part / "deep" / "x").write_text("half")
        else:
            part.write_text("half")
        raise error
    assert os.listdir(tmp_path) == ["a"] and path.read_text() == "old"


def test_a_folder_replaces_a_folder(tmp_path):
    path = tmp_path / "store.zarr"
    for name in ("one", "two"):
        with replacing(path) as part:
            part.mkdir()
            (part / name).write_text(name)
        assert os.listdir(path) == [name]
    assert os.listdir(tmp_path) == ["store.zarr"]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"),
     SafetensorError('Error while serializing: IoError(Os { code: 28, message: "No space left on device" })')],
)  # fmt: skip
def test_a_full_disk(tmp_path, monkeypatch, error):
    def fail(tensors, path):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(InputError, match=r"no space left to write .*w\.safetensors: free some"):
        save_tensors({"a": torch.ones(1)}, tmp_path / "w.safetensors")
    assert not os.listdir(tmp_path)


def test_other_errors_pass(tmp_path):
    with pytest.raises(PermissionError), replacing(tmp_path / "a") as part:
        raise PermissionError(errno.EACCES, "Permission denied", str(part))


def test_tensors_round_trip(tmp_path):
    tensors = {"a": torch.randn(3, 4).T, "b": torch.tensor([1, 2]), "c": torch.randn(2, dtype=torch.complex64)}
    save_tensors(tensors, tmp_path / "w.safetensors")
    found = load_file(tmp_path / "w.safetensors")
    assert found.keys() == tensors.keys() and all(torch.equal(found[k], tensors[k]) for k in tensors)


def test_json_has_no_numbers_that_json_lacks(tmp_path):
    save_json({"a": float("nan"), "b": [float("inf"), (1.5, -float("inf"))], "c": "text"}, tmp_path / "a.json")
    assert load_json(tmp_path / "a.json") == {"a": None, "b": [None, [1.5, None]], "c": "text"}
    json.loads((tmp_path / "a.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_fingerprints():
    assert fingerprint({"a": 1, "b": [2.5]}) == fingerprint({"b": [2.5], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert len(fingerprint({})) == 12
