"""Copies over http: whole, in part, resumed, from a bad server, with wrong sums, from archives."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from server import Server, serving
from test_data import RBC, write_well

from physinterp.data import archive, fetch, open_dataset, remote
from physinterp.errors import InputError


@pytest.fixture
def source(tmp_path) -> Path:
    source = tmp_path / "source"
    write_well(source)
    write_well(source, name="b c", seed=1, Rayleigh=1e7)
    write_well(source, "valid", seed=2)
    return source


@pytest.fixture
def server(source, monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr(remote, "PAUSE", 0.001)
    monkeypatch.setattr(fetch, "BLOCK", 10_000)
    with serving(source) as found:
        yield found


@pytest.fixture
def copy(tmp_path) -> Path:
    return tmp_path / "a copy"


def everything(url: str, folder: Path, *patterns: str) -> list[Path]:
    return [fetch.fetch(item) for item in fetch.plan(url, folder, patterns or ("*",))]


def same(source: Path, copy: Path) -> bool:
    names = [p.relative_to(copy) for p in copy.rglob("*.hdf5")]
    return bool(names) and all((source / n).read_bytes() == (copy / n).read_bytes() for n in names)


def test_a_folder(server, source, copy):
    items = fetch.plan(server.url, copy)
    assert [i.path.relative_to(copy).as_posix() for i in items] == [
        "data/train/a.hdf5", "data/train/b c.hdf5", "data/valid/a.hdf5"
    ]  # fmt: skip
    notes = json.loads((source / "checksums.json").read_text())
    assert [i.sha256 for i in items] == [notes[i.path.relative_to(copy).as_posix()]["sha256"] for i in items]
    assert sum(i.left for i in items) == sum(p.stat().st_size for p in source.rglob("*.hdf5"))
    counts: list[int] = []
    for item in items:
        fetch.fetch(item, counts.append)
    assert sum(counts) == sum(i.size for i in items) and same(source, copy)
    assert open_dataset(RBC, "train", copy, verify=True).sizes["sample"] == 4
    asked = len(server.asked)
    assert all(i.done and not i.left for i in fetch.plan(server.url, copy))
    everything(server.url, copy)
    assert not [r for _, r in server.asked[asked:] if r and r.startswith("bytes=1")]  # nothing comes twice


def test_some_files(server, source, copy):
    everything(server.url, copy, "data/train/b*", "*valid*")
    assert same(source, copy) and len(list(copy.rglob("*.hdf5"))) == 2
    everything(f"{server.url}/data/train/a.hdf5", copy / "one")
    assert (copy / "one" / "a.hdf5").is_file()
    with pytest.raises(
        InputError, match=rf"{server.url}: no file matches data/tran/a.hdf5: did you mean 'data/train/a.hdf5'"
    ):
        fetch.plan(server.url, copy, ["data/tran/a.hdf5"])
    with pytest.raises(InputError, match=r"/nothing: no such file or folder"):
        fetch.plan(f"{server.url}/nothing", copy)


@pytest.mark.parametrize("fault", ["busy", "drops", "slow"])
def test_a_bad_server(server, source, copy, fault):
    if fault == "slow":
        server.slow = 0.01
    else:
        setattr(server, fault, {"a.hdf5": 3, "b%20c.hdf5": 2})
    everything(server.url, copy)
    assert same(source, copy)


def test_nobody_answers_and_nothing_is_lost(server, source, copy):
    item = fetch.plan(f"{server.url}/data/train/a.hdf5", copy)[0]
    came: list[int] = []

    def broken(count: int) -> None:
        came.append(count)
        if len(came) == 2:
            server.drops[""] = 1000

    with pytest.raises(
        InputError, match=r"data/train/a.hdf5: no answer after 5 tries .*run the same command again: what has come"
    ):
        fetch.fetch(item, broken)
    assert sum(came) == 20_000 and not item.path.exists()
    server.drops.clear()
    server.asked.clear()
    again = fetch.plan(f"{server.url}/data/train/a.hdf5", copy)[0]
    assert again.left == again.size - 20_000
    fetch.fetch(again)
    assert (copy / "a.hdf5").read_bytes() == (source / "data/train/a.hdf5").read_bytes()
    assert "bytes=20000-29999" in [r for _, r in server.asked] and "bytes=0-9999" not in [r for _, r in server.asked]


def test_parts_of_two_versions_are_not_mixed(server, source, copy, monkeypatch):
    url, path = f"{server.url}/data/train/a.hdf5", source / "data/train/a.hdf5"
    item = fetch.plan(url, copy)[0]
    copy.mkdir()
    item.part.write_bytes(b"of the old version")
    path.write_bytes(path.read_bytes()[::-1])
    fetch.fetch(fetch.plan(url, copy)[0])
    assert (copy / "a.hdf5").read_bytes() == path.read_bytes()


def test_a_wrong_sum(server, source, copy):
    path = source / "data/train/a.hdf5"
    content = bytearray(path.read_bytes())
    content[-50] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"data/train/a.hdf5: what came has SHA-256 .*, expected .*run the command again"):
        everything(server.url, copy)
    assert not list(copy.rglob("*"))[3:] and not list(copy.rglob("*.part"))


def test_a_list_of_sums(tmp_path, copy, monkeypatch):
    (tmp_path / "x.bin").write_bytes(b"123")
    (tmp_path / "SHA256SUMS").write_text(f"{hashlib.sha256(b'123').hexdigest()}  ./x.bin\n")
    with serving(tmp_path) as server:
        (item,) = [i for i in fetch.plan(server.url, copy) if i.path.name == "x.bin"]
        assert item.sha256 == hashlib.sha256(b"123").hexdigest() and fetch.fetch(item).read_bytes() == b"123"


def test_a_server_without_ranges(server, source, copy):
    server.ranges = False
    everything(f"{server.url}/data/train/a.hdf5", copy)
    assert (copy / "a.hdf5").read_bytes() == (source / "data/train/a.hdf5").read_bytes()


@pytest.mark.parametrize("name", ["%2e%2e/x.hdf5", "%2Ftmp/x.hdf5"])
def test_a_server_whose_names_point_outside(server, copy, monkeypatch, name):
    monkeypatch.setattr(fetch, "_walk", lambda root: [root / name])
    with pytest.raises(InputError, match=r"http.*: the file '.*/x.hdf5' lies outside of the folder; do not use this source"):
        fetch.plan(server.url, copy)


def test_archives(tmp_path, copy, monkeypatch):
    folder = tmp_path / "archives"
    folder.mkdir()
    with zipfile.ZipFile(folder / "good.zip", "w") as file:
        file.writestr("data/x.txt", "zip")
    with tarfile.open(folder / "good.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("data/y.txt")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"tar"))
    with serving(folder) as server:
        everything(server.url, copy)
    assert (copy / "data/x.txt").read_text() == "zip" and (copy / "data/y.txt").read_text() == "tar"


@pytest.mark.parametrize("name", ["../x.txt", "/tmp/x.txt", "a/../../x.txt", "C:\\x.txt"])
def test_archives_that_point_outside(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(zipfile.ZipInfo(name), "x")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    for kind in ("zip", "tar"):
        with pytest.raises(InputError, match=rf"a.{kind}: member .* points outside of its folder"):
            archive.unpack(tmp_path / f"a.{kind}", tmp_path / "out")
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "../../x"
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        tar.addfile(link)
    with pytest.raises(InputError, match="'link' is a link"):
        archive.unpack(tmp_path / "b.tar", tmp_path / "out")
    (tmp_path / "c.tar").write_bytes(np.random.default_rng(0).bytes(3000))
    with pytest.raises(InputError, match="no readable tar archive"):
        archive.unpack(tmp_path / "c.tar", tmp_path / "out")
    assert not (tmp_path / "out").exists()
