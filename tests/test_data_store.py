"""Opening stores: URLs served from this machine, retries, missing packages."""

from __future__ import annotations

import functools
import http.server
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from test_weatherbench import CARD, expected, record, save

from physinterp.data import open_dataset, remote, splits, store
from physinterp.errors import InputError
from physinterp.system import load_system

pytest.importorskip("aiohttp")


class Faulty(http.server.SimpleHTTPRequestHandler):
    """A file server that fails the first times that it is asked for a path."""

    faults: Counter[str]
    kind: str

    def do_GET(self) -> None:
        if self.faults[Path(self.path).name] > 0:
            self.faults[Path(self.path).name] -= 1
            if self.kind == "drop":
                self.send_response(200)
                self.send_header("Content-Length", "100000")
                self.end_headers()
                self.wfile.write(b"half")
                self.close_connection = True
            else:
                self.send_error(503)
            return
        super().do_GET()

    def log_message(self, *args: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def truth() -> xr.Dataset:
    return record(frames=16)


@pytest.fixture(scope="module")
def folder(truth, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("remote")
    save(truth, folder / "a.2.zarr")
    save(truth, folder / "a b.nc")
    truth.to_zarr(folder / "a.zarr", zarr_format=3, consolidated=True)
    return folder


@pytest.fixture
def server(folder) -> Iterator[tuple[str, type[Faulty]]]:
    handler = type("Handler", (Faulty,), {"faults": Counter(), "kind": "503"})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=folder)) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", handler
        running.shutdown()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch, fresh_home) -> None:
    monkeypatch.setattr(remote, "PAUSE", 0.0)


@pytest.mark.parametrize("name", ["a.2.zarr", "a.zarr", "a%20b.nc"])
def test_urls(server, truth, name):
    url = f"{server[0]}/{name}"
    ds = open_dataset(CARD, "train", url)
    np.testing.assert_array_equal(ds.msl[0], expected(truth, "msl"))
    np.testing.assert_array_equal(ds.z500[0], expected(truth, "z500"))
    assert ds.attrs["path"] == url and splits(url, load_system("era5")) == ("valid",)


@pytest.mark.parametrize("kind", ["503", "drop"])
def test_a_store_that_fails_is_asked_again(server, truth, kind, caplog):
    url, handler = f"{server[0]}/a.2.zarr", server[1]
    handler.kind = kind
    handler.faults[".zmetadata"] = 2
    ds = open_dataset(CARD, "train", url)
    handler.faults["0.0.0"] = 3
    np.testing.assert_array_equal(ds.u10[0], expected(truth, "u10"))
    assert "attempt 2 of 5" in caplog.text and url in caplog.text
    handler.faults["1.0.0"] = 99
    with pytest.raises(InputError, match=rf"{url}: '2m_temperature' from .* no answer after 5 tries .*check the network"):
        ds.t2m.load()


def test_what_is_not_there_is_asked_for_once(server, caplog):
    with pytest.raises(InputError, match=r"nothing.zarr: cannot be read"):
        open_dataset(CARD, "train", f"{server[0]}/nothing.zarr")
    with pytest.raises(InputError, match=r"no.txt: read from URLs are WeatherBench2"):
        open_dataset(CARD, "train", f"{server[0]}/no.txt")
    with pytest.raises(InputError, match=r"read from URLs are The Well.*; download other data"):
        open_dataset("rbc", "train", f"{server[0]}/a.zarr")


@pytest.mark.parametrize(
    ("url", "package"), [("gs://b/a.zarr", "gcsfs"), ("s3://b/a.zarr", "s3fs"), ("https://b/a.nc", "aiohttp")]
)
def test_a_missing_package_is_one_line(monkeypatch, url, package):
    def missing(*args: object, **options: object) -> None:
        raise ImportError("Please install it")

    monkeypatch.setattr(store.xr, "open_dataset", missing)
    monkeypatch.setattr(store.fsspec, "open_local", missing)
    with pytest.raises(InputError, match=rf"{url}: a package is missing \(Please install it\): pip install {package}"):
        open_dataset(CARD, "train", url)


def test_the_card_says_where_the_data_are(monkeypatch):
    asked = []

    def nothing(url: str, **options: object) -> None:
        asked.append((url, options["storage_options"]))
        raise FileNotFoundError(url)

    monkeypatch.setattr(store.xr, "open_dataset", nothing)
    with pytest.raises(InputError, match=r"gs://weatherbench2.*cannot be read"):
        open_dataset("era5", "test")
    assert asked == [(load_system("era5").data, {"token": "anon"})]
    with pytest.raises(InputError, match=r"natlantic has no embedded solver: give data=PATH"):
        open_dataset("natlantic", "test")


def test_missing_chunks_of_a_remote_store(server, truth, folder, tmp_path):
    """`verify` lists them, where the server can."""
    url = f"{server[0]}/b.2.zarr"
    path = save(truth, folder / "b.2.zarr")
    np.testing.assert_array_equal(open_dataset(CARD, "train", url, verify=True).v10[0], expected(truth, "v10"))
    (path / "10m_v_component_of_wind" / "1.0.0").unlink()
    open_dataset(CARD, "train", url)
    message = r"chunk 1.0.0 of '10m_v_component_of_wind' \(2018-01-03T00 to 2018-01-04T18\) is missing"
    for place in (url, f"file://{path}"):
        with pytest.raises(InputError, match=message):
            open_dataset(CARD, "train", place, verify=True)
