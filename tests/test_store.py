"""Streaming to zarr: the values of a forecast in memory, continued after an interruption, and never whole when it is not."""

from __future__ import annotations

import errno
import filecmp
import logging
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from toy import KOLMOGOROV, dataset, emulator

from physinterp import store
from physinterp.baselines.reference import Persistence
from physinterp.errors import InputError
from physinterp.store import QUEUE, Store, blocks


class Counted(Persistence):
    """A random walk that counts its steps of a micro-batch and can be stopped before one."""

    def __init__(self, stop: int | None = None, error: type[BaseException] = KeyboardInterrupt) -> None:
        super().__init__()
        self.calls, self.stop, self.error = 0, stop, error

    def forward(self, z, cond, *, noise):
        if self.calls == self.stop:
            raise self.error
        self.calls += 1
        return 0.9 * z + 0.1 * noise(0)


def model(stop: int | None = None, **options):
    return emulator(system=KOLMOGOROV, stepper=Counted(stop, **options), micro_batch=4, correlation=0.5)


def forecast(path: Path | None, stop: int | None = None, **options) -> tuple[xr.Dataset, int]:
    """Five leads of three samples x four members in blocks of two members; and the steps of micro-batches taken."""
    made = model(stop)
    ds = made.forecast(dataset(KOLMOGOROV), 5, members=4, out=path, **({"chunk": 2} | options))
    return ds, made.stepper.calls


STEPS = 3 * 2 * 5  # of a whole forecast


@pytest.fixture(autouse=True)
def two_leads_per_slab(monkeypatch) -> None:
    monkeypatch.setattr(store, "LEADS", 2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "LEADS", 2)
        path = tmp_path_factory.mktemp("whole") / "whole.zarr"
        forecast(path)
    return path


def files(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def identical(a: Path, b: Path) -> bool:
    """The same files with the same bytes."""
    names = set(files(a))
    return names == set(files(b)) and not filecmp.cmpfiles(a, b, names, shallow=False)[1]


def test_the_values_are_those_of_memory(whole):
    ds, memory = xr.open_zarr(whole), forecast(None)[0]
    xr.testing.assert_identical(ds.load().drop_attrs(), memory.drop_attrs())
    assert {k: v for k, v in ds.attrs.items() if k != "request"} == memory.attrs and ds.latent.attrs == memory.latent.attrs
    for name in KOLMOGOROV.field_names:
        assert ds[name].attrs == memory[name].attrs
    assert "incomplete" not in ds.attrs and not list(whole.rglob(".state*"))


def test_a_slab_is_a_chunk(whole):
    ds = xr.open_zarr(whole)
    assert all(ds[name].encoding["chunks"] == (1, 2, 2, 16, 16) for name in KOLMOGOROV.field_names)


@pytest.mark.parametrize(("size", "count"), [((1, 2), 6), ((2, 4), 2), ((3, 4), 1), ((1, 3), 6)])
def test_blocks_cover_every_row_once(size, count):
    rows = np.zeros((3, 4), dtype=int)
    for block in blocks(3, 4, size):
        rows[block] += 1
    assert (rows == 1).all() and len(blocks(3, 4, size)) == count


# interruption ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [0, 1, 3, 4, 5, 9, 12, STEPS - 1])
def test_an_interrupted_forecast_goes_on_to_the_same_bytes(tmp_path, whole, stop):
    """What was written is not computed again, and what was not is NaN."""
    path = tmp_path / "f.zarr"
    with pytest.raises(KeyboardInterrupt):
        forecast(path, stop)
    part, full = xr.open_zarr(path), xr.open_zarr(whole)
    done = np.isfinite(part.vorticity.values)
    written = 2 * 2 * (5 * (stop // 5) + stop % 5 // 2 * 2) // 2  # rows x leads of whole slabs
    assert done.any((-2, -1)).sum() == done.all((-2, -1)).sum() == written
    assert (part.vorticity.values[done] == full.vorticity.values[done]).all()
    assert part.attrs["incomplete"] and part.sizes == full.sizes
    _, calls = forecast(path)
    assert calls == STEPS - written // 2 and identical(path, whole)


def test_twice_interrupted(tmp_path, whole):
    for stop in (3, 3, 4):
        with pytest.raises(KeyboardInterrupt):
            forecast(tmp_path / "f.zarr", stop)
    forecast(tmp_path / "f.zarr", chunk=12)  # keeps its own blocks
    assert identical(tmp_path / "f.zarr", whole)


@pytest.mark.parametrize("said", ["nothing is written yet", "written up to lead 2 of 5 in block 2 of 6"])
def test_how_far_it_got(tmp_path, said):
    with pytest.raises(RuntimeError):
        model(0 if said.startswith("n") else 8, error=RuntimeError).forecast(
            dataset(KOLMOGOROV), 5, members=4, out=tmp_path / "f.zarr", chunk=2
        )
    part = xr.open_zarr(tmp_path / "f.zarr")
    assert part.attrs["incomplete"] == said
    with pytest.raises(InputError, match=rf"the forecast is not finished \({said}\): finish it before it is continued"):
        model().forecast(part, 1)


@pytest.mark.parametrize("stop", [13, 17])
def test_blowups_are_kept_over_an_interruption(tmp_path, stop):
    """The same words, also where it happens in the first step after it."""

    class Breaks(Counted):
        def forward(self, z, cond, *, noise):
            z = super().forward(z, cond, noise=noise)
            z[1] = z[1] + (torch.nan if self.calls in (4, 13) else 0)
            return z

    def run(path, stop=None, first=0):
        made = model()
        made.stepper = Breaks(stop)
        made.stepper.calls = first
        return made.forecast(dataset(KOLMOGOROV), 5, members=4, out=path, chunk=2)

    run(tmp_path / "whole.zarr")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "f.zarr", stop)
    run(tmp_path / "f.zarr", first=stop // 5 * 5 + stop % 5 // 2 * 2)
    assert identical(tmp_path / "whole.zarr", tmp_path / "f.zarr")
    ds = xr.open_zarr(tmp_path / "f.zarr")
    assert len(ds.attrs["blowups"].splitlines()) == 2 and int(np.isfinite(ds.lost_at).sum()) == 2


# what is there already ---------------------------------------------------------------------------------------------


def test_a_complete_store_is_opened(tmp_path, whole, caplog):
    before = files(whole)
    with caplog.at_level(logging.INFO):
        ds, calls = forecast(whole, chunk=12)
    assert calls == 0 and files(whole) == before and "complete, of an earlier run" in caplog.text
    assert ds.sizes["lead_time"] == 5


@pytest.mark.parametrize(
    ("options", "other"),
    [
        ({"seed": 1}, "seed"),
        ({"steps": 6}, "steps"),
        ({"initial": 2 * dataset(KOLMOGOROV)}, "initial state"),
    ],
)
def test_a_store_of_another_request(tmp_path, whole, options, other):
    before = files(whole)
    call = {"initial": dataset(KOLMOGOROV), "steps": 5, "members": 4, "out": whole} | options
    with pytest.raises(InputError, match=f"holds another forecast \\(another {other}\\): choose another path, or overwrite"):
        model().forecast(**call)
    assert files(whole) == before


def test_overwriting(tmp_path, whole):
    path = tmp_path / "f.zarr"
    forecast(path, seed=1)
    forecast(path, overwrite=True)
    assert identical(path, whole)
    with pytest.raises(KeyboardInterrupt):
        forecast(path, 20, overwrite=True)
    forecast(path, overwrite=True)
    assert identical(path, whole)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["file", "folder", "zarr"])
def test_something_else_at_the_path(tmp_path, kind, overwrite):
    """It is never touched."""
    path = tmp_path / "f.zarr"
    if kind == "file":
        path.write_text("mine")
    elif kind == "folder":
        (path / "results").mkdir(parents=True)
    else:
        dataset(KOLMOGOROV).to_zarr(path, zarr_format=2)
    before = files(tmp_path)
    with pytest.raises(InputError, match="exists, and is no forecast of physinterp: choose another path"):
        forecast(path, overwrite=overwrite)
    assert files(tmp_path) == before and path.exists()


def test_a_damaged_state(tmp_path, whole):
    path = tmp_path / "f.zarr"
    with pytest.raises(KeyboardInterrupt):
        forecast(path, 12)
    (state,) = path.rglob(".state*")
    state.write_bytes(state.read_bytes()[:30])
    with pytest.raises(InputError, match=r"state.safetensors is damaged .*: delete it and run the command again"):
        forecast(path)
    state.unlink()
    assert forecast(path)[1] == STEPS and identical(path, whole)


# the writer --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["values", "state"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error")]
)
def test_a_disk_that_is_full(tmp_path, monkeypatch, whole, where, error):
    """One error; nothing after it is written or taken for written; the same call goes on once there is room."""
    path = tmp_path / "f.zarr"
    written = []

    def fails(original):
        def call(*args):
            written.append(args)
            if len(written) >= 9:
                raise error
            return original(*args)

        return call

    with monkeypatch.context() as patch:
        if where == "state":
            patch.setattr(store, "save_tensors", fails(store.save_tensors))
        else:
            array = type(xr.open_zarr(whole) and store.zarr.open_group(str(whole), mode="r")["vorticity"])
            patch.setattr(array, "__setitem__", fails(array.__setitem__))
        with pytest.raises(InputError) as raised:
            forecast(path)
    reason = "no space left on the device" if error.errno == errno.ENOSPC else "Input/output error"
    assert (
        reason in str(raised.value)
        and "the same call goes on from there" in str(raised.value)
        and str(path) in str(raised.value)
    )
    assert len(written) == 9 and "incomplete" in xr.open_zarr(path).attrs
    forecast(path)
    assert identical(path, whole)


def test_a_disk_that_is_full_at_once(tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_zarr", full)
    with pytest.raises(InputError, match="no space left to write"):
        forecast(tmp_path / "f.zarr")
    assert not list(tmp_path.iterdir())


def test_the_writer_is_one_thread_with_a_short_queue(tmp_path, monkeypatch):
    """The rollout waits for a slow disk: a slab in hand, at most two with the writer."""
    save, threads, waiting = Store._save, set(), []

    def slow(self, *args):
        threads.add(threading.current_thread().name)
        waiting.append(len(self._pending))
        time.sleep(0.002)
        save(self, *args)

    monkeypatch.setattr(Store, "_save", slow)
    forecast(tmp_path / "f.zarr")
    assert len(threads) == 1 and threading.current_thread().name not in threads and max(waiting) <= QUEUE


def test_memory_does_not_grow_with_the_leads(tmp_path, monkeypatch):
    """Peak of what Python and numpy allocate: 240 leads within 5 % and a slab of 24; in memory they are 60 slabs."""
    monkeypatch.setattr(store, "LEADS", 4)
    system = KOLMOGOROV.with_grid((64, 64))
    made, initial = emulator(system=system, stepper=Persistence(), micro_batch=4), dataset(system, samples=1)
    peaks = []
    for steps in (24, 240):
        tracemalloc.start()
        made.forecast(initial, steps, members=4, out=tmp_path / f"{steps}.zarr")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.05 * peaks[0] + 4 * 4 * 64 * 64 * 4
