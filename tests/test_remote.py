"""Files behind a URL: ranges, retries, and what is said when nobody answers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from server import Server, serving

from physinterp.data import remote
from physinterp.data.hdf5 import files_in, opened
from physinterp.data.remote import Remote, filesystem, located, location
from physinterp.errors import InputError

VALUES = np.random.default_rng(0).standard_normal((4, 30, 32, 32)).astype(np.float32)


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr(remote, "PAUSE", 0.001)
    monkeypatch.setattr(remote, "BLOCK", 1 << 14)
    with h5py.File(tmp_path / "a file.hdf5", "w") as file:
        file["u"] = VALUES
    with serving(tmp_path) as found:
        yield found


@pytest.fixture
def url(server) -> Remote:
    return Remote(server.url) / "a file.hdf5"


def test_names():
    file = Remote("https://host/some/folder/a.b.hdf5?download=1")
    assert (file.name, file.stem, file.suffix, file.parent.url) == ("a.b.hdf5", "a.b", ".hdf5", "https://host/some/folder")
    assert (Remote("s3://bucket/x/") / "y").url == "s3://bucket/x/y"
    assert located("hf://datasets/a") == "hf://datasets/a" and location("hf://datasets/a") == Remote("hf://datasets/a")
    assert location("~/a") == located("file://~/a") == Path("~/a").expanduser()


def test_hdf5_in_ranges(url, server):
    """What is read is what is asked for: no more than the chunk and the metadata come over the network."""
    with opened(url) as file:
        np.testing.assert_array_equal(file["u"][2], VALUES[2])
    ranges = [r.removeprefix("bytes=").split("-") for _, r in server.asked if r and r != "HEAD"]
    assert sum(int(b) - int(a) + 1 for a, b in ranges) < 1.5 * (VALUES[2].nbytes + remote.BLOCK)
    asked = len(server.asked)
    with opened(url) as file:
        assert file["u"].shape == VALUES.shape
    assert len(server.asked) <= asked + 2  # the metadata are kept


def test_what_is_there(url, server, tmp_path):
    assert url.is_file() and url.exists() and not url.is_dir()
    assert not (url.parent / "b.hdf5").is_file() and not (url.parent / "folder").exists()
    assert Remote(server.url).is_dir() and files_in(Remote(server.url)) == (Remote(f"{server.url}/a%20file.hdf5"),)
    with pytest.raises(InputError, match=r"b.hdf5: no such file"), opened(url.parent / "b.hdf5"):
        pass


@pytest.mark.parametrize("fault", ["busy", "drops"])
def test_what_passes_is_tried_again(url, server, fault, caplog):
    getattr(server, fault)[""] = 3
    with caplog.at_level(logging.WARNING), opened(url) as file:
        np.testing.assert_array_equal(file["u"][1], VALUES[1])
    assert f"{url}: " in caplog.text and "attempt 2 of 5" in caplog.text


def test_nobody_answers(url, server):
    server.busy[""] = 1000
    with pytest.raises(InputError, match=r"a file.hdf5: no answer after 5 tries \(503.*check the network"):
        url.is_file()
    with pytest.raises(InputError, match="no answer after 5 tries"):
        files_in(Remote(server.url))
    server.busy.clear()
    with opened(url) as file:
        server.drops[""] = 1000
        with pytest.raises(InputError, match=r"a file.hdf5: no answer after 5 tries"):
            file["u"][3]


def test_a_connection_that_stalls_is_dropped(url, server, monkeypatch):
    monkeypatch.setattr(remote, "TIMEOUT", 0.05)
    monkeypatch.setattr(remote, "TRIES", 2)
    server.slow = 0.3
    with pytest.raises(InputError, match=r"a file.hdf5: no answer after 2 tries"):
        url.fetch(0, 10)


def test_a_server_without_ranges(url, server):
    server.ranges = False
    with pytest.raises(InputError, match="does not send parts of files: download it"):
        url.fetch(0, 10)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nosuch://a/b", "nosuch://a/b: .*expected https://"),
        ("gs://a/b", r"gs://a/b: a package is missing .*: pip install gcsfs"),
    ],
)
def test_protocols(address, message, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(InputError, match=message):
        filesystem(address)
