"""Forecasts with trained models: which one, how it is sampled, and from which file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import torch
import xarray as xr

from physinterp.checkpoint import load_json
from physinterp.config import home
from physinterp.data import developed, open_dataset, splits
from physinterp.data.hdf5 import SUFFIXES
from physinterp.data.remote import located
from physinterp.data.store import netcdf
from physinterp.emulator import Emulator
from physinterp.errors import InputError
from physinterp.methods import METHODS, Method, ModelName, make_sampler, sampler_steps
from physinterp.runs import Runs
from physinterp.samplers import SAMPLERS
from physinterp.system import System, near
from physinterp.tune import VERSION, Setting

LOGGER = logging.getLogger(__name__)

DEFAULT = "balanced"  # of the named settings
SAMPLER = {  # where nothing is tuned, calibrated or asked for
    "interpolant": "si-em",
    "interpolant-state": "si-em",
    "ddpm": "ddpm",
    "edm": "edm",
    "flow-matching": "fm",
}


def load(
    model: str | Path,
    sampler: str | None = None,
    steps: int | None = None,
    setting: str | None = None,
    device: str = "cpu",
) -> Emulator:
    """The emulator of a trained model, without its training data.

    How it is sampled: as `sampler` and `steps` say; else by a named setting of `physinterp tune`; else as the benchmark
    calibrated it; else with temperature 1, which the log then says is not calibrated. Temperature and correlation of a
    `sampler` are those of its calibration, where there is one. Deterministic models need no sampler.

    Arguments:
        model: folder of a trained model; or a system, such as `rbc`, for its newest run (there the interpolant of the
            preset); or `rbc/interpolant-identity-unet`, for the newest one of that name.
        sampler: key of SAMPLERS that the model can use.
        steps: of the sampler, those of the preset where None.
        setting: `accurate`, `balanced` or `spectral`, kept by `physinterp tune`; `balanced` where None and tuned.
        device: `cpu` or `cuda`.
    Raises:
        InputError: no such model, sampler, setting or device, or files that are damaged, missing or of other weights.
    """
    if device not in ("cpu", "cuda"):
        raise InputError(f"no device {device!r}: {near(device, ('cpu', 'cuda'))}")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no CUDA device here; use the device cpu")
    runs, name = Runs.of(folder(model), device)
    codec_key = f"codec-{name.codec}"
    if name.codec != "identity" and not runs.trained(codec_key):
        raise InputError(f"{runs.folder(codec_key)} is missing, which {name} works in: copy it too, or train again")
    choice = _choose(runs, name, sampler, steps, setting)
    if choice is None:
        return runs.sampled(name, None)
    row = Method(name.objective, choice.sampler)
    used = make_sampler(row, runs.model(name), {choice.sampler: choice.steps}, choice.temperature)
    return runs.sampled(name, used, choice.correlation)


def folder(model: str | Path) -> Path:
    """The folder of a trained model by its path or name; see `load`."""
    path = Path(model).expanduser()
    if (path / "model.json").is_file():
        return path
    system, _, wanted = str(model).partition("/")
    named = [p for p in _trained() if p.parent.name.rsplit("-", 2)[0] == system and wanted in ("", p.name)]
    if not named:
        if path.is_dir() or path.is_absolute():
            return path  # `Runs.of` says what is wrong with it
        known = sorted({f"{p.parent.name.rsplit('-', 2)[0]}/{p.name}" for p in _trained()})
        raise InputError(
            f"no trained model {str(model)!r}, neither a folder nor a system of {home() / 'runs'}; there are: "
            f"{', '.join(known) or 'none, train one with python -m physinterp.benchmark'}"
        )
    newest = max(named, key=lambda p: (p / "model.json").stat().st_mtime)
    if not wanted:
        runs, _ = Runs.of(newest)
        usual = newest.parent / str(ModelName("interpolant", runs.preset.codec, runs.preset.backbone))
        newest = usual if usual in named else newest
    LOGGER.info("model %s", newest)
    return newest


def _trained() -> Iterator[Path]:
    return (p.parent for p in (home() / "runs").glob("*/*-*-*/model.json") if (p.parent / "weights.safetensors").is_file())


# how it is sampled -----------------------------------------------------------------------------------------------------


def _choose(runs: Runs, name: ModelName, sampler: str | None, steps: int | None, setting: str | None) -> Setting | None:
    """The setting that a user asks for, or the best that there is; None for a model without a sampler."""
    home_of = runs.folder(str(name))
    if sampler is not None and setting is not None:
        raise InputError(f"give a sampler or a setting, not both (found {sampler!r} and {setting!r})")
    if steps is not None and (sampler is None or steps < 1):
        raise InputError(f"sampler steps {steps}: expected at least 1, and the sampler that they belong to")
    if sampler is not None and sampler not in _samplers(name.objective):
        raise InputError(
            f"no sampler {sampler!r} for a model {name.objective!r}: {near(sampler, _samplers(name.objective))}"
        )
    if sampler is None:
        if setting is None and name.objective == "deterministic":
            return None
        if setting is not None or (home_of / "settings.json").is_file():
            return _named(home_of, setting or DEFAULT, runs.weights(name))
    wanted = sampler or SAMPLER[name.objective]
    count = steps or sampler_steps(Method(name.objective, wanted), runs.preset.steps)
    kept = _calibrations(home_of, wanted, runs.weights(name))
    exact = [s for s in kept if (s.sampler, s.steps) == (wanted, count)]
    if chosen := exact or (kept if sampler is None else []):
        return chosen[0]
    if not SAMPLERS[wanted].deterministic:
        LOGGER.warning(
            "%s with %d steps is not calibrated, its spread may be wrong; to choose by measurement: physinterp tune %s",
            wanted, count, home_of,
        )  # fmt: skip
    return Setting(wanted, count)


def _samplers(objective: str) -> tuple[str, ...]:
    """Samplers of the rows with an objective; the interpolant from the state has those of the other one."""
    rows = (m for m in METHODS.values() if m.objective in (objective, objective.removesuffix("-state")))
    return tuple(dict.fromkeys(m.sampler for m in rows if m.sampler))


def _named(home_of: Path, setting: str, weights: str | None) -> Setting:
    """A setting that `physinterp tune` has kept."""
    path = home_of / "settings.json"
    if not path.is_file():
        raise InputError(f"no setting {setting!r}, nothing is tuned yet: physinterp tune {home_of}")
    kept = load_json(path)
    try:
        settings, of = {str(k): Setting(**v) for k, v in kept["settings"].items()}, kept["weights"]
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}): physinterp tune {home_of}") from error
    if of != weights:
        raise InputError(f"{path} is of other weights ({of}, now {weights}); tune again: physinterp tune {home_of}")
    if setting not in settings:
        raise InputError(f"no setting {setting!r}: {near(setting, settings)}")
    return settings[setting]


def _calibrations(home_of: Path, first: str, weights: str | None) -> list[Setting]:
    """The calibrations of these weights: those of the sampler `first` before others, of many leads before few."""
    found = []
    for path in sorted(home_of.glob("calibration-*.json")):
        kept = load_json(path)
        try:
            setting, stamp = Setting(**kept["setting"]), kept["stamp"]
        except (KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged ({type(error).__name__}): delete it") from error
        if stamp == {"weights": weights, "version": VERSION}:
            found.append((setting.sampler != first, -int(path.stem.rpartition("-")[2]), setting))
    return [setting for *_, setting in sorted(found, key=lambda item: item[:2])]


# the initial state -----------------------------------------------------------------------------------------------------


def initial_state(data: str | Path, system: System, time: int | None = None) -> xr.Dataset:
    """The initial state in a file.

    Arguments:
        data: netCDF or zarr with the fields by name, such as a forecast to be continued; or a file, folder or URL that
            `open_dataset` reads: the whole of a record, and of simulated data the split test where there are more.
        system: of the model.
        time: number of the frame, from 0; where None the first, in simulated data the first after the spin-up.
    Raises:
        InputError: no such file, a damaged one, one of another format, or no such frame.
    """
    path = located(data)
    if isinstance(path, str):
        return _frame(_trajectories(path, system, time), path, time)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    zarr = any((path / name).is_file() for name in (".zgroup", ".zmetadata", "zarr.json"))
    if path.suffix in SUFFIXES or (path.is_dir() and not zarr):
        return _frame(_trajectories(path, system, time), path, time)
    try:
        with xr.open_zarr(path) if zarr else netcdf(path) as ds:
            if system.adapter != "weatherbench" or set(system.field_names) <= set(ds.data_vars):
                return _frame(ds, path, time).assign_attrs(path=str(path)).load()
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path} cannot be read as {'zarr' if zarr else 'netCDF'} ({reason}): it is damaged, or of another format"
        ) from error
    return _frame(_trajectories(path, system, time), path, time)


def _trajectories(path: Path | str, system: System, time: int | None) -> xr.Dataset:
    """What `open_dataset` reads; without the spin-up where no frame is asked for."""
    if system.adapter == "weatherbench":  # dates are no splits here
        return open_dataset(system.model_copy(update={"splits": {}}), "", path)
    found = splits(path)
    split = next((name for name in ("test", "valid", "train") if name in found), "test")
    ds = open_dataset(system, split, path)
    LOGGER.info("%s: %d trajectories%s", path, ds.sizes["sample"], f" of the split {split}" if found else "")
    return ds if time is not None else developed(ds, system)


def _frame(ds: xr.Dataset, path: Path | str, time: int | None) -> xr.Dataset:
    """One time; of dated data it becomes `init_time`."""
    if "time" not in ds.dims:
        if time is not None:
            raise InputError(
                f"{path}: --time {time} is given, but there is no time axis (found {sorted(map(str, ds.dims))})"
            )
        return ds
    count, index = ds.sizes["time"], time or 0
    if not 0 <= index < count:
        raise InputError(f"{path}: no frame {index}, there are 0 to {count - 1}")
    if "sample" not in ds.dims and ds["time"].dtype.kind == "M":
        return ds.isel(time=[index]).rename(time="init_time")
    return ds.isel(time=index)
