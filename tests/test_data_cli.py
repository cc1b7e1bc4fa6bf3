"""The commands on data: what they print and write, one line per error, exit codes, Ctrl-C."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from server import serving
from test_array import CARD, VALUES
from test_data import RBC, write_well
from test_preflight import series

from physinterp import cli, console
from physinterp.data import convert, generate, open_dataset, remote
from physinterp.system import load_system

Command = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture
def command(monkeypatch, capsys) -> Command:
    """Runs `physinterp data ...` in this process: exit code, stdout, lines of stderr."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> tuple[int, str, list[str]]:
        monkeypatch.setattr(sys, "argv", ["physinterp", "data", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err.splitlines()

    return call


@pytest.fixture
def root(tmp_path) -> Path:
    write_well(tmp_path / "source")
    write_well(tmp_path / "source", "valid", seed=1)
    return tmp_path / "source"


def test_generate(command, fresh_home, tmp_path):
    options = (
        "--shape",
        "16,16",
        "--frames",
        3,
        "--spin-up",
        0.2,
        "--trajectories",
        "train=2,valid=1",
        "--parameter",
        "drag=0.1,0.2",
    )
    code, out, _ = command("generate", "kolmogorov", "--out", tmp_path / "out", *options, "--plan")
    assert (
        code == 0 and out.startswith("to make: 6 trajectories of 3 frames, 0.01843 MB") and not (tmp_path / "out").exists()
    )
    code, out, _ = command("generate", "kolmogorov", "--out", tmp_path / "out", *options, "--splits", "train")
    assert code == 0 and out.splitlines()[-1] == str(tmp_path / "out") and len(list((tmp_path / "out").rglob("*.hdf5"))) == 2
    code, out, lines = command("generate", "kolmogorov", "--parameter", "drag")
    assert code == 2 and lines == ["error: --parameter 'drag': expected NAME=VALUE"]
    assert command("generate", "kolmogorov", "--shape", "16,a")[2] == ["error: --shape: expected a number, found 'a'"]


def test_the_time_of_an_earlier_run_is_known(command, fresh_home):
    command("generate", "kolmogorov", "--shape", "16,16", "--frames", 3, "--spin-up", 0.2, "--trajectories", "train=1")
    out = command("generate", "kolmogorov", "--shape", "16,16", "--frames", 4, "--spin-up", 0.2, "--plan")[1]
    assert re.search(r"MB, about \d+ s", out)


def test_inspect(command, root):
    code, out, _ = command("inspect", root)
    assert code == 1 and "would: open it as rbc with the adapter well" in out and "WRONG: all frames are before" in out
    assert command("inspect", root / "nothing")[0] == 1


def test_stats(command, root, monkeypatch):
    monkeypatch.setattr(console, "CONNECT", 0.2)
    code, out, _ = command("stats", "rbc", "--data", root, "--threads", 2)
    assert code == 0 and out.startswith("train: 2 x 5 frames") and out.splitlines()[-1] == str(root / "stats.yaml")
    assert yaml.safe_load((root / "stats.yaml").read_text())["source"]["trajectories"] == 2
    code, _, lines = command("stats", "rbc", "--data", root, "--scheduler", "tcp://127.0.0.1:1")
    assert code == 2 and len(lines) == 1 and ("no scheduler at tcp://127.0.0.1:1" in lines[0] or "pip install" in lines[0])


def test_convert(command, root, tmp_path):
    arguments = ("convert", "rbc", "--data", root, "--out", tmp_path / "a copy", "--times", "0.25:", "--fields", "pressure")
    code, out, _ = command(*arguments, "--plan")
    assert (
        code == 0 and "train: 2 trajectories of 4 frames" in out and "valid: " in out and not (tmp_path / "a copy").exists()
    )
    assert command(*arguments)[0] == 0
    copy = tmp_path / "a copy"
    assert open_dataset(load_system(copy), "valid", copy).pressure.shape == (2, 4, 12, 8)
    assert "0 MB to" in command(*arguments)[1]  # all is there
    code, _, lines = command("convert", "rbc", "--data", root, "--out", tmp_path / "b", "--samples", "1")
    assert code == 2 and lines == ["error: --samples '1': expected FIRST:LAST, such as 0:10"]


def test_fetch(command, root, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "PAUSE", 0.001)
    with serving(root) as server:
        code, out, _ = command("fetch", server.url, "--out", tmp_path / "files", "--files", "data/train/*", "--plan")
        assert code == 0 and out.startswith("1 files, 0 of them are there;") and "about" in out
        assert command("fetch", server.url, "--out", tmp_path / "files", "--files", "data/train/*")[0] == 0
        assert open_dataset(RBC, "train", tmp_path / "files", verify=True).sizes["sample"] == 2
        part = ("--system", "rbc", "--splits", "valid", "--fields", "buoyancy", "--samples", "0:1", "--stride", 2)
        assert command("fetch", server.url, "--out", tmp_path / "part", *part)[0] == 0
        ds = open_dataset(load_system(tmp_path / "part"), "valid", tmp_path / "part")
        assert dict(ds.sizes) == {"sample": 1, "time": 3, "x": 12, "y": 8} and list(ds.data_vars) == ["buoyancy"]
        server.busy[""] = 1000
        code, _, lines = command("fetch", f"{server.url}/data/valid/a.hdf5", "--out", tmp_path / "c")
        assert code == 2 and f"error: {server.url}/data/valid/a.hdf5: no answer after 5 tries" in lines[-1]
    code, _, lines = command("fetch", "https://host/x.h5", "--out", tmp_path / "d", "--fields", "u")
    assert code == 2 and "need --system" in lines[0]


def test_bench(command, tmp_path):
    (tmp_path / "card.yaml").write_text(CARD)
    np.save(tmp_path / "a.npy", VALUES)
    code, out, _ = command("bench", tmp_path, "--data", tmp_path / "a.npy", "--preset", "tiny", "--seconds", 0.1)
    assert code == 0 and all(text in out for text in ("samples/s", "MB/s", "bare loop", "windows", "a trainer waits "))
    code, _, lines = command("bench", tmp_path, "--data", tmp_path / "a.npy", "--seconds", 0.1)
    assert code == 2 and "have to be divisible by 8, found (6, 4): take another preset" in lines[0]


def test_bench_of_a_preset(command, tmp_path):
    write_well(tmp_path)
    code, out, _ = command("bench", "rbc", "--data", tmp_path, "--preset", "tiny", "--seconds", 0.1)
    assert code == 0 and "a trainer waits " in out and "ms per step" in out


def test_preflight(command, tmp_path):
    axes = ", ".join(f"{{name: {name}, size: 16, start: 0, length: 16, boundary: periodic}}" for name in "yx")
    (tmp_path / "card.yaml").write_text(
        f"name: ar\nadapter: array\nfields: [{{name: u}}, {{name: v}}]\ngrid: {{axes: [{axes}]}}\ndt: 1\n"
    )
    series(0.97, 100).load().to_netcdf(tmp_path / "a.nc")
    code, out, _ = command("preflight", tmp_path, "--data", tmp_path / "a.nc")
    rows = [line.replace("│", " ").split() for line in out.splitlines() if "│" in line]
    assert code == 0 and [r[0] for r in rows] == ["1", "2", "4", "8", "16", "32"]
    assert "decorrelation time (0.5)" in out and "suggested: stride 2 (step 2)" in out


@pytest.mark.parametrize("name", ["generate", "fetch", "inspect", "stats", "convert", "bench", "preflight"])
def test_help(command, name):
    code, out, _ = command(name, "--help")
    assert code == 0 and "Usage" in out and "--help" in out


def test_interrupted(command, root, tmp_path, monkeypatch):
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(convert, "convert", stop)
    code, _, lines = command("convert", "rbc", "--data", root, "--out", tmp_path / "copy")
    assert code == 130 and any(line.startswith("interrupted: what is finished is kept") for line in lines)
    monkeypatch.setattr(generate, "generate", stop)
    assert command("generate", "kolmogorov", "--plan")[0] == 0


def test_errors_are_one_line(command, tmp_path):
    (tmp_path / "a.npy").write_bytes(b"")
    (tmp_path / "card.yaml").write_text(CARD)
    for name in ("stats", "bench", "preflight"):
        code, _, lines = command(name, tmp_path, "--data", tmp_path / "a.npy")
        assert code == 2 and len(lines) == 1 and "a.npy (0 bytes)" in lines[0]
        assert "no such file or folder" in command(name, "rbc", "--data", tmp_path / "no")[2][0]
    assert json.dumps(command("stats", "rbx")[2]).count("did you mean 'rbc'") == 1
