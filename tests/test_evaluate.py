"""Scores of forecasts: perfect, brute force, lost members, cases, rows and their intervals."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch
import xarray as xr
from toy import KOLMOGOROV, RBC, dataset, emulator

from physinterp import evaluate as ev
from physinterp import metrics
from physinterp.baselines.reference import Persistence
from physinterp.errors import InputError
from physinterp.metrics import FURTHER
from physinterp.table import DIMENSIONLESS, difference, join, ratio, rows

HEADLINE = ("buoyancy", "velocity_x", "velocity_y")
LEADS, STRIDE = 3, 2


@pytest.fixture(scope="module")
def truth() -> ev.Cases:
    return ev.cases(dataset(RBC, samples=4, frames=11), STRIDE, LEADS, starts=2, dt=0.5)


@pytest.fixture(scope="module")
def model():
    return emulator(stepper=Persistence())


def fields(truth: ev.Cases, k: int) -> torch.Tensor:
    return truth.lead(k, RBC.field_names, RBC.grid.names)


def ensemble(truth: ev.Cases, members: int, spread: float = 1.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = lambda k: torch.randn(8, members, 4, 16, 8, generator=generator)  # noqa: E731
    return [fields(truth, k).unsqueeze(1) + spread * draw(k) for k in range(LEADS)]


# cases -------------------------------------------------------------------------------------------------------------


def test_cases_start_evenly_and_are_followed_by_their_truth():
    ds = dataset(RBC, samples=2, frames=11)
    found = ev.cases(ds, stride=2, leads=3, starts=3, dt=0.5)
    assert found.initial.sizes["sample"] == 6 and found.truth.sizes["lead_time"] == 3
    assert found.truth.lead_time.values.tolist() == [0.5, 1.0, 1.5]
    assert found.initial.trajectory.values.tolist() == ["a/0", "a/1"] * 3
    for i, start in enumerate((0, 2, 4)):  # the last one ends on the last frame: 4 + 3 * 2 = 10
        for n in range(2):
            row = 2 * i + n
            np.testing.assert_array_equal(found.initial.pressure[row], ds.pressure[n, start])
            np.testing.assert_array_equal(found.truth.pressure[row], ds.pressure[n, start + 2 : start + 7 : 2])
    assert "time" not in found.initial.coords and found.initial.Rayleigh.dims == ("sample",)
    tensor = found.lead(1, RBC.field_names, RBC.grid.names)
    assert tensor.shape == (6, 4, 16, 8) and tensor.dtype == torch.float32
    np.testing.assert_array_equal(tensor[0, 1], ds.pressure[0, 4])


@pytest.mark.parametrize(("frames", "starts", "expected"), [(7, 1, 1), (7, 5, 1), (8, 5, 2), (11, 1, 1), (11, 2, 2)])
def test_no_start_comes_twice(frames, starts, expected):
    found = ev.cases(dataset(RBC, samples=1, frames=frames), 2, 3, starts, 0.5)
    assert found.initial.sizes["sample"] == expected


def test_too_few_frames():
    with pytest.raises(InputError, match="6 frames are too few for 3 leads of 2 frames: ask for a lead of at most 2"):
        ev.cases(dataset(RBC, frames=6), 2, 3, 1, 0.5)


def test_a_stride_that_is_not_the_step():
    with pytest.raises(InputError, match=r"1 frames are 0\.25 apart, the step is 0\.5: take a stride of 2"):
        ev.cases(dataset(RBC, frames=6), 1, 3, 1, 0.5)


def test_values_that_are_not_finite_are_found_in_the_truth(truth):
    truth.check(RBC.field_names)
    ds = dataset(RBC, samples=2, frames=11)
    ds.velocity_x.values[1, 5, 3, 2] = np.nan
    with pytest.raises(InputError, match=r"a.h5: field 'velocity_x' has 1 values .* in sample 1, first at .*\(t = 1.25\)"):
        ev.cases(ds.assign_attrs(path="a.h5"), 1, 5, 2, 0.25).check(RBC.field_names)


# scores ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("members", [1, 3])
def test_a_perfect_forecast_scores_nothing(truth, model, members):
    perfect = (fields(truth, k).unsqueeze(1).expand(-1, members, -1, -1, -1) for k in range(LEADS))
    ds = ev.evaluate(perfect, truth, model)
    for name in (*DIMENSIONLESS, "crps", "mae", "mse_of_mean", *(("variance",) if members > 1 else ())):
        assert float(np.abs(ds[name]).max()) < 1e-6, name
    np.testing.assert_allclose(ds.spectrum, ds.spectrum_truth, rtol=1e-6)
    assert ("variance" in ds) == (members > 1)


def test_dimensions(truth, model):
    ds = ev.evaluate(ensemble(truth, 3), truth, model)
    assert ds.crps.dims == ("lead_time", "case", "field") and ds.srmse.dims == ("lead_time", "case", "field", "band")
    assert dict(ds.sizes) | {"k": 0} == {"lead_time": 3, "case": 8, "field": 4, "band": 4, "k": 0, "rank": 4}
    assert ds.field.values.tolist() == list(RBC.field_names) and ds.lead_time.values.tolist() == [0.5, 1.0, 1.5]
    assert "seconds" not in ds and ds.attrs["members"] == 3
    assert ds.trajectory.values.tolist() == truth.initial.trajectory.values.tolist()


def test_persistence_by_brute_force(truth, model):
    ds = ev.evaluate(ev.physical(model, truth, LEADS, 1, 0), truth, model)
    weights = RBC.grid.weights
    for k in range(LEADS):
        for name in RBC.field_names:
            for case in range(8):
                u = truth.initial[name][case].values.astype(float)
                v = truth.truth[name][case].isel(lead_time=k).values.astype(float)
                mean, n = (weights * v).mean(), v.size
                variance = (weights * (v - mean) ** 2).mean() * n / (n - 1)
                at = {"lead_time": k, "case": case}
                found = ds.sel(field=name).isel(at)
                error = (weights * (u - v) ** 2).mean()
                assert float(found.vrmse_mean) == pytest.approx(math.sqrt(error / variance), rel=1e-4)
                assert float(found.vrmse_member) == float(found.vrmse_mean)
                plain = math.sqrt(((u - v) ** 2).mean() / v.var(ddof=1))
                assert float(found.vrmse_unweighted) == pytest.approx(plain, rel=1e-4)
                assert float(found.mae) == pytest.approx((weights * np.abs(u - v)).mean(), rel=1e-4)
                assert float(found.crps) == float(found.mae)
                assert float(found.mse_of_mean) == pytest.approx(error, rel=1e-4)


def test_scores_are_those_of_metrics(truth, model):
    forecasts = ensemble(truth, 3)
    ds = ev.evaluate(forecasts, truth, model)
    weights = torch.from_numpy(RBC.grid.weights)
    for k in range(LEADS):
        x, y = forecasts[k].transpose(0, 1), fields(truth, k)
        at = ds.isel(lead_time=k)
        np.testing.assert_allclose(at.crps, metrics.crps(x, y, weights))
        np.testing.assert_allclose(at.vrmse_mean, metrics.vrmse(x.mean(0), y, weights))
        members = torch.stack([metrics.vrmse(m, y, weights) for m in x]).mean(0)
        np.testing.assert_allclose(at.vrmse_member, members)
        np.testing.assert_allclose(at.variance, metrics.ensemble_variance(x, y, weights))


@pytest.mark.parametrize("how", ["tensors", "datasets"])
def test_a_lost_member_scores_infinity_from_that_lead_on(truth, model, how):
    """Also where a forecast that was not finite once is finite again."""
    forecasts = ensemble(truth, 2)
    forecasts[1][3, 1, 2, 0, 0] = torch.nan
    ds = ev.evaluate(forecasts, truth, model)
    if how == "datasets":
        dims, stacked = ("sample", "member", "lead_time", "x", "y"), torch.stack(forecasts, 2)
        fields = {n: (dims, stacked[..., i, :, :].numpy()) for i, n in enumerate(RBC.field_names)}
        ds = ev.compare(xr.Dataset(fields, truth.truth.coords), truth.truth, RBC, part=3)
    for name in ("crps", "vrmse_mean", "vrmse_member", "mae", "srmse", "variance"):
        lost = np.isinf(ds[name].values).reshape(3, 8, 4, -1).all(-1)
        assert lost[1:, 3].all() and lost.sum() == 2 * 4, name  # in all fields: the rollout is lost
        assert np.isfinite(ds[name].values).reshape(3, 8, 4, -1).all(-1).sum() == lost.size - 2 * 4, name
    value = {(r["field"], r["lead"], r["score"]): r["value"] for r in rows("x", ds, HEADLINE)}
    assert value["velocity_x", 1.0, "crps"] == math.inf == value["mean", 1.0, "crps"]
    assert math.isfinite(value["velocity_x", 0.5, "crps"]) and value["buoyancy", 1.5, "crps"] == math.inf


# rows --------------------------------------------------------------------------------------------------------------


def test_rows(truth, model):
    ds = ev.evaluate(ensemble(truth, 3), truth, model)
    table = rows("si-em", ds, HEADLINE)
    keys = {"method", "field", "lead", "score", "value", "low", "high", "count", "version", "grid", "weights", "eps"}
    assert all(r.keys() == keys for r in table)
    assert {r["grid"] for r in table} == {str(RBC.grid)} and {r["version"] for r in table} == {metrics.VERSION}
    assert {r["score"] for r in table if r["weights"] == "none"} == {"vrmse_unweighted"}
    bands = [f"{n}_{b}" for n in ("srmse", "log_spectral_distance") for b in metrics.BANDS]
    scores = {"vrmse_member", "vrmse_mean", "vrmse_unweighted", "crps", "mae", "spread_skill", *bands}
    keys = [(r["field"], r["lead"], r["score"]) for r in table]
    assert set(keys) == {(f, k, s) for f in (*RBC.field_names, "mean") for k in (0.5, 1.0, 1.5) for s in scores}
    assert len(set(keys)) == len(keys)
    assert all(r["low"] <= r["value"] <= r["high"] for r in table if r["score"] == "crps")
    assert {r["method"] for r in table} == {"si-em"} and {r["count"] for r in table} == {8}
    value = {(r["field"], r["lead"], r["score"]): r["value"] for r in table}
    assert value["pressure", 0.5, "crps"] == pytest.approx(float(ds.crps.sel(lead_time=0.5, field="pressure").mean()))


def test_the_mean_over_fields_is_without_units(truth, model):
    ds = ev.evaluate(ensemble(truth, 3), truth, model)
    value = {(r["field"], r["lead"], r["score"]): r["value"] for r in rows("x", ds, HEADLINE)}
    std = dict(zip(RBC.field_names, model.stack.statistics.std, strict=True))
    crps = np.mean([value[f, 1.0, "crps"] / std[f] for f in HEADLINE])
    assert value["mean", 1.0, "crps"] == pytest.approx(crps)
    vrmse = np.mean([value[f, 1.0, "vrmse_mean"] for f in HEADLINE])
    assert value["mean", 1.0, "vrmse_mean"] == pytest.approx(vrmse)


def test_spread_skill_row_is_that_of_metrics(truth, model):
    forecasts = ensemble(truth, 4, spread=0.7)
    table = rows("x", ev.evaluate(forecasts, truth, model), HEADLINE)
    value = {(r["field"], r["lead"]): r["value"] for r in table if r["score"] == "spread_skill"}
    weights = torch.from_numpy(RBC.grid.weights)
    for k in range(LEADS):
        expected = metrics.spread_skill(forecasts[k].transpose(0, 1), fields(truth, k), weights)
        for j, name in enumerate(RBC.field_names):
            assert value[name, 0.5 * (k + 1)] == pytest.approx(float(expected[j]), rel=1e-5)
    single = rows("x", ev.evaluate(ensemble(truth, 1), truth, model), HEADLINE)
    assert "spread_skill" not in {r["score"] for r in single}


def test_one_trajectory_has_no_interval(model):
    one = ev.cases(dataset(RBC, samples=1, frames=11), 2, 2, 3, 0.5)
    table = rows("x", ev.evaluate(ev.physical(model, one, 2, 1, 0), one, model), HEADLINE)
    assert all(math.isnan(r["low"]) and math.isnan(r["high"]) and r["count"] == 3 for r in table)


def test_ratio():
    rng = np.random.default_rng(0)
    b = xr.DataArray(1 + rng.random(12), dims="case", coords={"trajectory": ("case", np.repeat(list("abcdef"), 2))})
    found = ratio(0.8 * b, b)
    assert list(found.values()) == pytest.approx([0.8] * 3)  # paired: what they share cancels
    noisy = ratio(0.8 * b + 0.1 * rng.random(12), b)
    assert noisy["low"] < noisy["value"] < noisy["high"]
    assert noisy["value"] == pytest.approx(float((0.8 * b + 0).mean() / b.mean()), abs=0.1)


def test_rows_that_were_computed_differently_do_not_join(truth, model):
    a, b = (rows(n, ev.evaluate(ensemble(truth, 2), truth, model), HEADLINE) for n in "ab")
    assert join(a, b) == a + b
    fewer = ev.cases(dataset(RBC, samples=2, frames=11), STRIDE, LEADS, starts=2, dt=0.5)
    c = rows("c", ev.evaluate(ev.physical(model, fewer, LEADS, 1, 0), fewer, model), HEADLINE)
    with pytest.raises(InputError, match="vrmse_member of c and a do not compare: count is 4 and 8; score both anew"):
        join(a, c)
    with pytest.raises(InputError, match="version is 0 and 1"):
        join(a, [r | {"version": "0"} for r in b])


def test_difference():
    rng = np.random.default_rng(0)
    b = xr.DataArray(rng.random(12), dims="case", coords={"trajectory": ("case", np.repeat(list("abcdef"), 2))})
    assert list(difference(b + 0.3, b).values()) == pytest.approx([0.3] * 3)


# error budget ------------------------------------------------------------------------------------------------------


def test_budget_by_brute_force(truth):
    lossy = emulator("deterministic", codec="dcae")
    ds = ev.evaluate(ev.physical(lossy, truth, LEADS, 1, 0), truth, lossy, seed=0)
    weights = torch.from_numpy(RBC.grid.weights)
    parameters = torch.from_numpy(RBC.conditioning(truth.initial))
    for k in range(LEADS):
        before, target = fields(truth, k - 1), fields(truth, k)
        x = lossy.stack.normalise(before)
        step = lossy.stack.denormalise(next(lossy.states(x, parameters, 1)))[:, 0]
        seen = lossy.stack.denormalise(lossy.reconstruct(lossy.stack.normalise(target), parameters))
        for name, u in (("one_step", step), ("floor", seen)):
            expected = ((u - target).double().square() * weights).mean((-2, -1))
            torch.testing.assert_close(torch.from_numpy(ds[f"mse_{name}"][k].values), expected, rtol=1e-4, atol=1e-12)
    assert np.allclose(ds.mse_member[0], ds.mse_one_step[0], rtol=1e-4)  # one step from the initial state is both
    for name in ("member", "one_step", "floor"):
        assert ds[f"error_spectrum_{name}"].dims == ("lead_time", "field", "k")
    assert {"mse_member", "mse_one_step", "mse_floor"} <= {r["score"] for r in rows("x", ds, HEADLINE)}


def test_the_error_of_persistence_is_one_step_at_every_lead(truth, model):
    ds = ev.evaluate(ev.physical(model, truth, LEADS, 1, 0), truth, model, seed=0)
    assert float(ds.mse_floor.max()) == 0
    change = fields(truth, 2) - fields(truth, 1)
    expected = (change.double().square() * torch.from_numpy(RBC.grid.weights)).mean((-2, -1))
    np.testing.assert_allclose(ds.mse_one_step[2], expected, rtol=1e-4)
    total = ev.spectrum(change, RBC.grid).power.mean(0)
    np.testing.assert_allclose(ds.error_spectrum_one_step[2], total, rtol=1e-4)


# any forecast, in parts --------------------------------------------------------------------------------------------


def datasets(truth: ev.Cases, members: int = 3) -> xr.Dataset:
    noise = np.random.default_rng(0)
    ds = truth.truth[list(RBC.field_names)].expand_dims(member=members, axis=1)
    return ds.map(lambda da: da + 0.3 * noise.standard_normal(da.shape).astype(np.float32), keep_attrs=True)


@pytest.mark.parametrize("part", [3, 8])
def test_datasets_score_as_tensors_do(truth, model, part):
    forecast = datasets(truth)
    stacked = [
        torch.from_numpy(np.stack([forecast[n].isel(lead_time=k).transpose("sample", "member", ...).values
                                   for n in RBC.field_names], axis=2)) for k in range(LEADS)
    ]  # fmt: skip
    expected = ev.evaluate(stacked, truth, model)
    found = ev.compare(forecast, truth.truth, RBC, part=part)
    assert found.attrs == expected.attrs and set(found) == set(expected)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, err_msg=name)
    scale = np.stack([truth.lead(0, [n], RBC.grid.names).double().numpy() for n in RBC.field_names])
    mean = (scale * RBC.grid.weights).mean((1, 2, 3, 4))
    std = np.sqrt((scale**2 * RBC.grid.weights).mean((1, 2, 3, 4)) - mean**2)
    np.testing.assert_allclose(found["std"], std, rtol=1e-6)
    assert len(rows("x", found, HEADLINE)) == len(rows("x", expected, HEADLINE))


def test_further_scores_are_those_of_metrics(truth):
    forecast = datasets(truth)
    found = ev.compare(forecast, truth.truth, RBC, part=3, also=FURTHER)
    weights = torch.from_numpy(RBC.grid.weights)
    x = torch.stack([torch.from_numpy(forecast[n].isel(lead_time=1).values) for n in RBC.field_names], 2).transpose(0, 1)
    y = fields(truth, 1)
    for name in FURTHER:
        options = {"axes": (-2,), "spacing": RBC.grid.axes[0].spacing} if name == "coherence" else {}
        if name == "energy_score":
            expected = metrics.energy_score(x, y, weights)
        else:
            expected = torch.stack([metrics.METRICS[name](m, y, weights, **options) for m in x]).mean(0)
        np.testing.assert_allclose(found[name].isel(lead_time=1), expected, rtol=1e-6, err_msg=name)
    table = rows("x", found, HEADLINE)
    assert {*FURTHER} - {"coherence"} < {r["score"] for r in table} and "coherence_mid" in {r["score"] for r in table}
    value = {r["field"]: r["value"] for r in table if (r["score"], r["lead"]) == ("rmse", 1.0)}
    std = dict(zip(RBC.field_names, found["std"].values, strict=True))
    assert value["mean"] == pytest.approx(np.mean([value[f] / std[f] for f in HEADLINE]))


@pytest.mark.parametrize(
    ("name", "message"),
    [("rsme", "no metric 'rsme'"), ("vrmse_pooled", "'vrmse_pooled' has no place in a table: ")],
)
def test_scores_that_cannot_be_asked_for(truth, name, message):
    with pytest.raises(InputError, match=message):
        ev.compare(datasets(truth), truth.truth, RBC, also=[name])


def test_dask_workers_give_the_same_scores(truth):
    distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")
    forecast = datasets(truth)
    with distributed.Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        found = ev.compare(forecast, truth.truth, RBC, part=3, client=client)
    xr.testing.assert_identical(found, ev.compare(forecast, truth.truth, RBC, part=3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop_vars("pressure"), "the forecast has no pressure"),
        (lambda f: f.isel(lead_time=slice(2)), "the forecast has 2 and the truth 3 of lead_time"),
        (lambda f: f.assign_coords(lead_time=[0.5, 1.0, 2.0]), "lead_time differs at index 2: 2.0 in the forecast, 1.5"),
        (lambda f: f.isel(sample=slice(5)), "the forecast has 5 and the truth 8 of sample"),
        (lambda f: f.isel(x=slice(8)), "grid axis 'x': expected 16 points, found 8"),
        (lambda f: f.assign(buoyancy=f.buoyancy.assign_attrs(units="K")), "buoyancy is in 'K' in the forecast"),
        (lambda f: f.assign_coords(sample=np.arange(8) + 0.5), "sample is float64 in the forecast and int64 in the truth"),
        (lambda f: f.expand_dims(height=2), "buoyancy of the forecast has the dimension 'height'"),
        (lambda f: f.isel(lead_time=0), "needs the dims sample or init_time, and lead_time"),
    ],
)
def test_datasets_that_do_not_belong_together(truth, change, message):
    right = truth.truth.assign({n: truth.truth[n].assign_attrs(units="1") for n in RBC.field_names})
    with pytest.raises(InputError, match=message):
        ev.compare(change(datasets(truth)), right, RBC)


def test_a_truth_of_several_members(truth):
    with pytest.raises(InputError, match=r"of the truth has the dimension .member.: choose one of it"):
        ev.compare(datasets(truth), datasets(truth), RBC)


# truth through the codec -------------------------------------------------------------------------------------------


def test_the_floor_of_the_identity_is_zero(truth, model):
    ds = ev.evaluate(ev.floor(model, truth, LEADS), truth, model)
    assert float(ds.vrmse_mean.max()) < 1e-6
    lossy = emulator("deterministic", codec="dcae")
    assert float(ev.evaluate(ev.floor(lossy, truth, LEADS), truth, lossy).vrmse_mean.min()) > 0.05


def test_spectra_are_along_periodic_axes():
    assert ev.spectrum(torch.randn(2, 1, 16, 16), KOLMOGOROV.grid).k[1] == pytest.approx(1.0)
    x = torch.arange(16) * 4.0 / 16
    wave = torch.sin(2 * math.pi * 3 * x / 4)[:, None].expand(16, 8)
    found = ev.spectrum(wave.expand(1, 1, 16, 8), RBC.grid)
    assert float(found.k[found.power[0, 0].argmax()]) == pytest.approx(2 * math.pi * 3 / 4)


# what no score may hide --------------------------------------------------------------------------------------------


def test_a_forecast_that_comes_back_stays_lost(truth, model):
    """One value is not finite at the second lead; the member counts as lost there and later, in every way of scoring."""
    forecast = datasets(truth)
    forecast["buoyancy"][0, 1, 1, 3, 2] = math.inf
    found = ev.compare(forecast, truth.truth, RBC, part=3)
    tensors = ev.evaluate(ev.read(forecast, RBC), truth, model, seed=0)
    for ds, name in ((found, "crps"), (found, "vrmse_mean"), (tensors, "crps"), (tensors, "mse_member")):
        lost = np.isinf(ds[name]).any("field")
        assert lost[1:, 0].all() and not lost[0].any() and not lost[:, 1:].any(), name


def test_a_truth_that_is_not_finite(truth):
    broken = truth.truth.copy(deep=True)
    broken["pressure"][5, 2, 3, 1] = math.nan
    with pytest.raises(InputError, match=r"truth at index 2 of lead_time: .*pressure"):
        ev.compare(datasets(truth), broken, RBC, part=3)


def test_a_constant_truth_is_said_once(truth, caplog):
    flat = truth.truth.copy(deep=True)
    flat["pressure"][:3] = 2.0
    found = ev.compare(datasets(truth), flat, RBC, part=3)
    assert [r.getMessage().split(":")[0] for r in caplog.records] == ["the truth of pressure is constant in 3 of 8 cases"]
    assert np.isinf(found.vrmse_mean.sel(field="pressure")[:, :3]).all() and np.isfinite(found.crps).all()


def test_lead_times_that_xarray_has_read_as_timedelta(truth):
    """A store in hours or days comes back with timedelta64."""
    days = RBC.model_copy(update={"time_unit": "d"})
    as_read = datasets(truth).assign_coords(lead_time=(np.array([0.5, 1.0, 1.5]) * 86400e9).astype("timedelta64[ns]"))
    found = ev.compare(as_read, truth.truth, days)
    assert found.lead_time.values.tolist() == [0.5, 1.0, 1.5]


def test_memory_does_not_grow_with_the_cases(tmp_path):
    """Ten times the initial conditions, read from a store: the peak grows by their scores alone."""
    system, peaks = KOLMOGOROV.with_grid((32, 32)), []
    for cases in (16, 160):
        leads = {"sample": cases, "lead_time": 2, "x": 32, "y": 32}
        chunks = {"sample": 8, "lead_time": 1}
        values = np.random.default_rng(0).standard_normal(tuple(leads.values())).astype(np.float32)
        coords = {**system.grid.coords, "lead_time": [0.5, 1.0]}
        ds = xr.Dataset({"vorticity": (tuple(leads), values)}, coords)
        ds.expand_dims(member=8, axis=1).chunk(chunks).to_zarr(tmp_path / f"f{cases}", zarr_format=2)
        ds.chunk(chunks).to_zarr(tmp_path / f"t{cases}", zarr_format=2)
        forecast, truth = (xr.open_zarr(tmp_path / f"{kind}{cases}", decode_timedelta=False) for kind in "ft")
        tracemalloc.start()
        found = ev.compare(forecast, truth, system, part=8)
        peaks.append(tracemalloc.get_traced_memory()[1] - found.nbytes)
        tracemalloc.stop()
    whole = 160 * 8 * 2 * 32 * 32 * 4
    assert peaks[1] - peaks[0] < 0.1 * whole
