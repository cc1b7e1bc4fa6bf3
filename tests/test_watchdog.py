"""The watchdog: faults put into a rollout are found at their step, named with their place and cause, and never dropped."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch
from toy import KOLMOGOROV, RBC, dataset, emulator

from physinterp import evaluate as ev
from physinterp.baselines.reference import Persistence
from physinterp.watchdog import BOUND, MESSAGES, Blowup


class Faulty(Persistence):
    """Persistence, and at the third step something happens to the rows of a member."""

    def __init__(self, fault, member: int = 1) -> None:
        super().__init__()
        self.fault, self.member, self.calls = fault, member, 0

    def forward(self, z, cond, *, noise):
        self.calls += 1
        z = z.clone()
        return self.fault(z, self.calls) if self.calls >= 3 else z


def at(index: tuple, value: float, rows: slice = slice(1, 2)):
    """A fault: one value of a row, at the third step alone."""

    def fault(z: torch.Tensor, call: int) -> torch.Tensor:
        if call == 3:
            z[(rows, *index)] = value
        return z

    return fault


def model(fault, **options):
    return emulator(stepper=Faulty(fault), micro_batch=8, bound=options.pop("bound", BOUND), **options)


def everywhere(z: torch.Tensor, call: int) -> torch.Tensor:
    z[1] = math.nan
    return z


def growth(z: torch.Tensor, call: int) -> torch.Tensor:
    z[1] *= 2.0
    return z


def noise(z: torch.Tensor, call: int) -> torch.Tensor:
    z[1, 0, :2] = math.inf
    return z


@pytest.mark.parametrize(
    ("fault", "change", "step", "variable", "place", "cause"),
    [
        (at((2, 5, 3), math.nan), None, 3, "velocity_x", (5, 3), "a jump from a sound state"),
        (at((1, 0, 0), -math.inf), None, 3, "pressure", (0, 0), "a jump from a sound state"),
        (at((3, 15, 7), 51.0), None, 3, "velocity_y", (15, 7), "a jump from a sound state"),
        (at((3, 15, 7), -51.0), None, 3, "velocity_y", (15, 7), "a jump from a sound state"),
        (noise, None, 3, "buoyancy", (0, 0), "a jump from a sound state"),
        (everywhere, None, 3, "buoyancy", (0, 0), "a network that returns 100% unusable values"),
        (growth, None, 6, None, None, "growth over several steps"),
        (lambda z, call: z, lambda ds: ds.assign(buoyancy=60 * ds.buoyancy), 1, "buoyancy", None, "buoyancy of the initial"),
        (
            growth,
            lambda ds: ds.assign(pressure=30 + ds.pressure),
            4,
            "pressure",
            None,
            "pressure of the initial state is up",
        ),
        (
            growth,
            lambda ds: ds.assign_coords(Rayleigh=("sample", [1e12] * 2)),
            6,
            None,
            None,
            "parameter Rayleigh lies outside",
        ),
    ],
)
def test_faults(fault, change, step, variable, place, cause):
    """Found at the step in which they happen, in one member of one sample."""
    initial = dataset(RBC, samples=2)
    initial = change(initial) if change else initial
    ds = model(fault).forecast(initial, steps=7, members=2)
    lines = ds.attrs["blowups"].splitlines()
    lost = ~np.isfinite(ds.to_dataarray().values).all((0, -2, -1))
    assert lost[..., step - 1 :].any((0, 1)).all() and not lost[..., : step - 1].any()
    assert len(lines) == lost[..., -1].sum() == np.isfinite(ds.lost_at).sum()
    assert f"is lost from step {step} (lead time {step * 0.5:g}) on" in lines[0] and cause in lines[0]
    if variable:
        assert f"{variable} is" in lines[0]
    if place:
        x, y = (axis.points[i] for axis, i in zip(RBC.grid.axes, place, strict=True))
        assert f"at x = {x:.6g}, y = {y:.6g}" in lines[0]


def test_a_lost_member_stays_lost_and_alone():
    """Also with a stepper that comes back to sound values; the others keep their bytes."""
    initial = dataset(RBC, samples=2)
    ds = model(at((2, 5, 3), math.nan)).forecast(initial, steps=5, members=2)
    sound = emulator(stepper=Persistence(), micro_batch=8).forecast(initial, steps=5, members=2)
    assert "blowups" not in sound.attrs and np.isnan(sound.lost_at).all()
    np.testing.assert_array_equal(ds.lost_at, [[np.nan, 1.5], [np.nan, np.nan]])
    for name in RBC.field_names:
        expected = sound[name].values.copy()
        expected[0, 1, 2:] = np.nan
        np.testing.assert_array_equal(ds[name], expected)
    assert np.isnan(ds.latent[0, 1]).all() and np.isfinite(ds.latent[1]).all()


def test_a_lost_member_goes_on_as_lost():
    """A continued forecast has the record of the first part, and says nothing twice."""
    whole = model(at((2, 5, 3), math.nan)).forecast(dataset(RBC, samples=2), steps=5, members=2)
    first = model(at((2, 5, 3), math.nan)).forecast(dataset(RBC, samples=2), steps=4, members=2)
    second = model(lambda z, call: z).forecast(first, steps=1)
    assert second.attrs["blowups"] == whole.attrs["blowups"]
    np.testing.assert_array_equal(second.lost_at, whole.lost_at)
    np.testing.assert_array_equal(second.buoyancy, whole.buoyancy.isel(lead_time=[4]))


def test_the_score_of_a_lost_member_is_infinite():
    initial = dataset(RBC, samples=2)
    truth = initial.expand_dims(lead_time=3).transpose("sample", "lead_time", ...).assign_coords(lead_time=[0.5, 1.0, 1.5])
    cases = ev.Cases(initial, truth)
    faulty = model(at((2, 5, 3), math.nan))
    scores = ev.evaluate(ev.physical(faulty, cases, 3, 2, 0), cases, faulty)
    assert (
        np.isinf(scores.crps.isel(lead_time=2, case=0)).all() and np.isfinite(scores.crps.isel(lead_time=slice(0, 2))).all()
    )
    assert np.isfinite(scores.crps.isel(case=1)).all()


def test_one_warning_per_field(caplog):
    def all_rows(z, call):
        z[:, 1, 2, 2] = math.nan
        z[3, 0] = 1e3
        return z

    with caplog.at_level(logging.WARNING):
        ds = emulator(stepper=Faulty(all_rows), micro_batch=32, bound=BOUND).forecast(dataset(RBC), steps=4, members=8)
    assert [r.levelname for r in caplog.records] == ["WARNING"] and "pressure is not finite" in caplog.text
    assert len(ds.attrs["blowups"].splitlines()) == MESSAGES and int(np.isfinite(ds.lost_at).sum()) == 24


def test_the_record_of_a_rollout():
    watched = model(at((2, 5, 3), 80.0))
    watchdog = watched.watchdog()
    x, parameters = watched.stack.pack(dataset(RBC, samples=2)), torch.from_numpy(RBC.conditioning(dataset(RBC, samples=2)))
    states = list(watched.states(x, parameters, 4, 2, watchdog=watchdog))
    assert [bool(s[0, 1].isnan().all()) for s in states] == [False, False, True, True]
    (found,) = watchdog.blowups
    x, y = RBC.grid.axes[0].points[5], RBC.grid.axes[1].points[3]
    assert found == Blowup("velocity_x", {"x": x, "y": y}, 80.0, 3, 1.5, 0, 1, found.cause)
    assert str(found).startswith("sample 0, member 1 is lost from step 3 (lead time 1.5) on: velocity_x is 80 standard dev")


@pytest.mark.parametrize(("bound", "lost"), [(4.0, True), (6.0, False)])
def test_a_given_bound(bound, lost):
    ds = model(at((2, 5, 3), 5.0), bound=bound).forecast(dataset(RBC, samples=2) * 0, steps=3, members=2)
    assert bool(np.isfinite(ds.lost_at).any()) == lost


def test_the_watchdog_sees_the_decoded_fields():
    """A latent state that is out of range is no fault."""
    ds = emulator("deterministic", KOLMOGOROV, codec="dcae", bound=BOUND).forecast(dataset(KOLMOGOROV), steps=2)
    assert np.isfinite(ds.vorticity).all()
