"""Cards: those of the package, strictness, names, parameters."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml

from physinterp.errors import InputError
from physinterp.system import Parameter, System, load_system, systems

DATASETS = Path(__file__).parents[1] / "datasets"


@pytest.mark.parametrize("name", systems())
def test_cards_load_and_round_trip(name):
    system = load_system(name)
    assert system.name == name
    assert System.model_validate_json(system.model_dump_json()) == system
    assert load_system(DATASETS / name) == load_system(DATASETS / name / "card.yaml") == system
    assert len((DATASETS / name / "README.md").read_text().splitlines()) < 80
    if system.data:  # statistics of what is downloaded are computed where it is
        assert not (DATASETS / name / "stats.yaml").exists()
        return
    stats = yaml.safe_load((DATASETS / name / "stats.yaml").read_text())
    assert set(stats) == {"mean", "std", "rms", "mean_delta", "std_delta", "rms_delta"}


def test_packaged_systems_and_their_sizes():
    assert set(systems()) >= {"kolmogorov", "rbc"}
    rbc = load_system("rbc")
    assert rbc.field_names == ("buoyancy", "pressure", "velocity_x", "velocity_y")
    assert rbc.grid.shape == (128, 32) and rbc.grid.boundary == ("periodic", "wall")
    assert load_system("kolmogorov").with_grid((160, 160)).grid.shape == (160, 160)


def test_datasets_is_no_python_package():
    assert not list(DATASETS.rglob("*.py"))
    spec = importlib.util.find_spec("datasets")
    assert spec is None or DATASETS.as_posix() not in str(spec.origin)


def test_unknown_name_lists_the_near_ones():
    with pytest.raises(InputError, match=r"did you mean 'kolmogorov'.*rbc"):
        load_system("kolmogorof")


@pytest.mark.parametrize(
    ("place", "key", "near"),
    [((), "titel", "title"), (("fields", 0), "unit", "units"), (("grid", "axes", 1), "boundry", "boundary"),
     (("splits", "test"), "sead", "seed"), (("solver",), "spinup", "spin_up")],
)  # fmt: skip
def test_unknown_key_names_file_key_and_near_keys(tmp_path, place, key, near):
    values = yaml.safe_load((DATASETS / "rbc" / "card.yaml").read_text())
    target = values
    for part in place:
        target = target[part]
    target[key] = 1
    path = tmp_path / "card.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(InputError) as caught:
        load_system(path)
    assert str(path) in str(caught.value)
    assert f"unknown key {'.'.join(map(str, (*place, key)))!r}: did you mean {near!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("- 1", "expected a mapping"), ("a: [", "not valid YAML"), ("name: x", "key 'adapter': Field required")],
)
def test_broken_cards_are_one_clear_line(tmp_path, text, message):
    (tmp_path / "card.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_system(tmp_path)
    assert "\n" not in str(caught.value)


def test_splits_that_share_seeds_are_refused(tmp_path):
    values = yaml.safe_load((DATASETS / "rbc" / "card.yaml").read_text())
    values["splits"]["valid"]["seed"] = 10
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match="'train' and 'valid' share seeds"):
        load_system(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"end": "2018-06-01"}, "splits 'train' and 'valid' share dates: start 'valid' some days after 2018-06-01"),
        ({"end": "1978-01-01"}, "the end 1978-01-01 is before the start 1979-01-01"),
        ({"end": None}, "either trajectories and seed, or start and end"),
        ({"seed": 3}, "either trajectories and seed, or start and end"),
        ({"start": "soon"}, "key 'splits.train.start'"),
    ],
)
def test_splits_by_date(tmp_path, change, message):
    values = yaml.safe_load((DATASETS / "era5" / "card.yaml").read_text())
    values["splits"]["train"] |= change
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=message):
        load_system(tmp_path)


def test_a_field_with_levels_is_a_field_per_level():
    entry = {"name": "z", "levels": [50, 500], "units": "m2 s-2", "long_name": "geopotential", "aliases": ["geopotential"]}
    values = load_system("era5").model_dump() | {"fields": [entry]}
    first, second = System.model_validate(values).fields
    assert (first.name, first.level, second.name, second.level) == ("z50", 50, "z500", 500)
    assert second.aliases == ("geopotential",) and second.long_name == "geopotential at 500 hPa"


def test_parameters_are_standardised_by_their_range():
    rayleigh = Parameter(name="Rayleigh", transform="log10", default=1e6, values=(1e5, 1e9))
    assert rayleigh.standardise([1e5, 1e7, 1e9]) == pytest.approx([-1, 0, 1])
    rbc = load_system("rbc")
    ds = xr.Dataset(coords={"Rayleigh": ("sample", [1e5, 1e10]), "Prandtl": ("sample", [1.0, 10.0])})
    assert rbc.conditioning(ds) == pytest.approx(np.array([[-1, 0], [1, 1]]))
    assert load_system("kolmogorov").conditioning(ds).shape == (2, 0)
    with pytest.raises(InputError, match="'Prandtl' is no coordinate"):
        rbc.conditioning(ds.drop_vars("Prandtl"))
