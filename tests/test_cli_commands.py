"""The command line beside the benchmark: `tune` and `doctor` on a trained model, help, exit codes, one line per error."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from test_walk import NAME, trained

from physinterp import cli, doctor, train, tune
from physinterp.doctor import Finding
from physinterp.methods import ModelName
from physinterp.tune import CHOSEN_BY, FACTORS

ROOT = Path(__file__).parents[1]
COMMANDS = ("tune", "doctor")
each_command = pytest.mark.parametrize("name", COMMANDS)
Command = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture(scope="module")
def folder(session_home) -> Path:
    return trained()


@pytest.fixture(scope="module")
def others(session_home) -> dict[str, Path]:
    """Models without an interpolant, by objective."""
    return {objective: trained(ModelName(objective, "identity", "unet")) for objective in ("deterministic", "edm")}


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    """The folder in a place of its own, to be damaged or written to."""
    return shutil.copytree(folder, tmp_path / "run" / folder.name)


@pytest.fixture
def command(monkeypatch, capsys) -> Command:
    """Runs the command line in this process, training forbidden: exit code, stdout, lines of stderr."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(train.Trainer, "fit", lambda *args, **options: pytest.fail("trained"))

    def call(*arguments: object) -> tuple[int, str, list[str]]:
        monkeypatch.setattr(sys, "argv", ["physinterp", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err.splitlines()

    return call


@pytest.fixture
def short(monkeypatch) -> None:
    """A walk of two samplers."""
    monkeypatch.setattr(tune, "WALK", {"interpolant": {"si-e": (1,), "si-em": (2,)}})


def line(code: int, out: str, lines: list[str]) -> str:
    """The one line of an error."""
    assert code == 2 and not out and len(lines) == 1, (code, out, lines)
    assert lines[0].startswith("error: ")
    return lines[0]


# tune --------------------------------------------------------------------------------------------------------------


def test_tune(command, copy, short):
    code, out, _ = command("tune", copy, "--leads", 2)
    assert code == 0 and f"{NAME}, validation split, mean of leads 1 to 2" in out
    for label in ("sampler", "steps", "temperature", "correlation", "VRMSE", "SRMSE", "CRPS", "ms per step", "Pareto"):
        assert label in out
    rows = [row.replace("│", " ").split() for row in out.splitlines() if "│" in row]
    note = json.loads((copy / "settings.json").read_text())
    assert [r[:2] for r in rows] == [["si-e", "1"]] + [["si-em", "2"]] * len(FACTORS)
    for row, trial in zip(rows, note["trials"], strict=True):
        assert row[2] == f"{trial['setting']['temperature']:.2f}" and row[4] == f"{trial['vrmse']:.4f}"
        names = [name for name in CHOSEN_BY if note["settings"][name] == trial["setting"]]
        assert row[8:] == ", ".join(names).split() or (not names and row[8:] == ["x"] * trial["pareto"])
    assert "\x1b" not in out  # piped


def test_tune_says_which_leads_there_were(command, copy, short):
    """The trajectories end after four."""
    assert "leads 1 to 4" in command("tune", copy, "--leads", 50)[1]


def test_tune_interrupted(command, copy, short, monkeypatch):
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tune, "trial", stop)
    code, out, lines = command("tune", copy, "--leads", 2)
    assert (code, out) == (130, "") and [x for x in lines if x.startswith("interrupted: ")]
    assert not (copy / "settings.json").exists()


# doctor ------------------------------------------------------------------------------------------------------------


def test_doctor(command, copy, monkeypatch):
    monkeypatch.setattr(doctor, "STEPS", {"si-em": 8, "si-pf": 4, "si-e": 2})
    code, out, _ = command("doctor", copy, "--leads", 2)
    rows = [row for row in out.splitlines() if "?" in row]
    assert f"{NAME}, si-em with 2 steps, validation split" in out
    assert len(rows) == 9 and all(("sound" in row) != ("OFF" in row) for row in rows)
    assert code == int("OFF" in out)
    assert (copy / "calibration-si-em-2-leads-2.json").is_file()


@pytest.mark.parametrize("sound", [True, False])
def test_the_exit_code_of_the_doctor(command, copy, monkeypatch, sound):
    found = [Finding("is it so?", "1", "1", True, "never shown"), Finding("and so?", "2", "3", sound, "a cause")]
    monkeypatch.setattr(doctor, "examine", lambda *args: found)
    monkeypatch.setattr(doctor, "usual", lambda validation, sampler, steps: tune.Setting(sampler, steps))
    code, out, _ = command("doctor", copy, "--sampler", "si-cal", "--steps", 3)
    assert code == (0 if sound else 1) and "si-cal with 3 steps" in " ".join(out.split()) and "never shown" not in out
    assert ("OFF: " in out) != sound and ("cause" in out) != sound


def test_doctor_of_a_sampler_without_spread(command, copy):
    code, out, _ = command("doctor", copy, "--sampler", "si-e", "--leads", 2)
    assert code == 0 and len([row for row in out.splitlines() if "?" in row]) == 1


@pytest.mark.parametrize("sampler", ["si-me", "ddpm", "edm"])
def test_doctor_of_a_sampler_that_is_none(command, copy, sampler):
    message = line(*command("doctor", copy, "--sampler", sampler))
    assert repr(sampler) in message and "si-em" in message
    assert not list(copy.glob("calibration-*"))


@pytest.mark.parametrize("objective", ["deterministic", "edm"])
def test_doctor_of_a_model_without_an_interpolant(others, command, objective, tmp_path):
    other = shutil.copytree(others[objective], tmp_path / "run" / others[objective].name)
    message = line(*command("doctor", other, "--leads", 2))
    assert f"{objective}-identity-unet is no interpolant" in message
    assert not list(other.glob("calibration-*"))


# folders that cannot be used ---------------------------------------------------------------------------------------


@each_command
def test_no_model_in_a_folder(command, name, folder, tmp_path):
    """Those there are are named."""
    message = line(*command(name, tmp_path / "nowhere"))
    assert "nowhere: no trained model there" in message and str(folder) in message


@each_command
@pytest.mark.parametrize("content", ["", '{"system": {', "null", "[]", "{}", '{"system": 1, "preset": 2, "seed": 3}'])
def test_a_damaged_note(command, name, copy, content):
    (copy / "model.json").write_text(content)
    message = line(*command(name, copy))
    assert message.count("is damaged") == 1 and str(copy / "model.json") in message and "delete it" in message


@each_command
def test_a_note_without_the_seed(command, name, copy):
    note = json.loads((copy / "model.json").read_text())
    note.pop("seed")
    (copy / "model.json").write_text(json.dumps(note))
    assert "is damaged" in line(*command(name, copy))


@each_command
def test_damaged_weights(command, name, copy):
    weights = copy / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert f"{weights} is damaged" in line(*command(name, copy))


@each_command
@pytest.mark.parametrize("label", ["mine", "interpolant-unet", "codec-dcae"])
def test_a_folder_whose_name_is_no_model(command, name, copy, label):
    other = copy.rename(copy.with_name(label))
    assert f"{label!r} names no model" in line(*command(name, other))


@each_command
@pytest.mark.parametrize("inside", [True, False])
def test_a_folder_by_a_relative_path(command, name, copy, short, inside, monkeypatch):
    monkeypatch.chdir(copy if inside else copy.parent)
    monkeypatch.setattr(doctor, "examine", lambda *args: [])
    code, out, lines = command(name, "." if inside else f"{copy.name}/", "--leads", 1)
    assert code == 0 and str(NAME) in out, lines


@each_command
@pytest.mark.parametrize("arguments", ["", "--leads 0", "--leads two", "--nothing"])
def test_options_that_are_none(command, name, folder, arguments):
    code, out, lines = command(name, *([folder] if arguments else []), *arguments.split())
    assert code == 2 and not out and any("rror" in x for x in lines) and len(lines) < 12
    assert not [x for x in lines if "Traceback" in x]


# help --------------------------------------------------------------------------------------------------------------


def test_the_commands(command):
    code, out, _ = command("--help")
    assert code == 0
    listed = [words[0] for row in out.partition("Commands")[2].splitlines() if (words := row.split())]
    assert [x for x in listed if x in ("benchmark", *COMMANDS)] == ["benchmark", *COMMANDS]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (
            "benchmark",
            "--system --sampler --preset --data --methods --steps --members --lead --seed --device --out --retrain",
        ),
        ("tune", "--leads"),
        ("doctor", "--sampler --steps --leads"),
    ],
)
def test_help_of_a_command(command, name, options):
    code, out, _ = command(name, "--help")
    assert code == 0 and f"physinterp {name} [OPTIONS]" in out.replace("\n", " ")
    assert all(option in out for option in options.split())
    assert name == "benchmark" or "model" in out.splitlines()[0].lower()


def test_a_command_that_is_none(command):
    for arguments in ((), ("tunes",), ("--system", "rbc")):
        code, _, lines = command(*arguments)
        assert code == 2 and not [x for x in lines if "Traceback" in x]


def python(*arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=300)


def test_the_module_of_the_benchmark_is_one_command():
    done = python("-m", "physinterp.benchmark", "--help")
    assert done.returncode == 0 and not done.stderr
    usage = done.stdout.strip().splitlines()[0]
    assert usage == "Usage: python -m physinterp.benchmark [OPTIONS]" and "--system" in done.stdout
    assert "COMMAND" not in done.stdout and "doctor" not in done.stdout


def test_help_answers_without_torch():
    """The entry point `physinterp` of pyproject.toml."""
    assert 'physinterp = "physinterp.cli:main"' in (ROOT / "pyproject.toml").read_text()
    script = "import sys\nfrom physinterp.cli import main\ntry:\n    main()\nfinally:\n    assert 'torch' not in sys.modules"
    done = python("-c", script, "--help")
    assert done.returncode == 0 and not done.stderr and "doctor" in done.stdout
