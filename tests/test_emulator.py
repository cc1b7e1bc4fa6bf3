"""The emulator: shape and units of a forecast, members that depend on nothing but themselves, bad input."""

from __future__ import annotations

import hashlib
import itertools
import math
from functools import cache

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import KOLMOGOROV, RBC, dataset, emulator

from physinterp.baselines.reference import Climatology, Persistence
from physinterp.emulator import Emulator
from physinterp.errors import InputError
from physinterp.noise import Noise


def values(ds: xr.Dataset) -> np.ndarray:
    return ds.to_dataarray().values


def test_a_forecast_is_a_dataset_in_physical_units():
    initial = dataset(RBC)
    ds = emulator().forecast(initial, steps=3, members=2)
    assert dict(ds.buoyancy.sizes) == {"sample": 3, "member": 2, "lead_time": 3, "x": 16, "y": 8}
    assert list(ds.data_vars) == list(RBC.field_names)
    assert ds.buoyancy.dims == ("sample", "member", "lead_time", "x", "y")
    assert ds.lead_time.values.tolist() == [0.5, 1.0, 1.5] and ds.lead_time.attrs["units"] == RBC.time_unit
    assert ds.member.values.tolist() == [0, 1]
    np.testing.assert_array_equal(ds.y, RBC.grid.axes[1].points)
    assert ds.Rayleigh.values.tolist() == [1e6] * 3 and ds.trajectory.values.tolist() == ["a/0", "a/1", "a/2"]
    for field in RBC.fields:
        assert ds[field.name].attrs == {"units": field.units, "long_name": field.long_name}
        assert ds[field.name].dtype == np.float32
    assert np.isfinite(values(ds)).all()


def test_one_state_without_a_sample_axis():
    initial = dataset(KOLMOGOROV, samples=1)
    one = emulator("deterministic", KOLMOGOROV).forecast(initial.isel(sample=0, drop=True), steps=2)
    assert one.sizes["sample"] == 1
    np.testing.assert_array_equal(values(one), values(emulator("deterministic", KOLMOGOROV).forecast(initial, steps=2)))


def test_a_rollout_yields_the_leads_of_the_forecast():
    whole = emulator().forecast(dataset(RBC), steps=3, members=2, seed=4)
    for k, ds in enumerate(emulator().rollout(dataset(RBC), steps=3, members=2, seed=4)):
        assert ds.sizes["lead_time"] == 1
        np.testing.assert_array_equal(values(ds)[:, :, :, 0], values(whole)[:, :, :, k])


# a member depends on weights, initial state, seed and member number alone -------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec", "correlation"),
    [
        *itertools.product(("si-em", "ddpm", "edm"), ("identity", "dcae"), (0.0,)),
        ("si-em-state", "identity", 0.0),
        ("deterministic-dressed", "identity", 0.0),
        ("si-em", "identity", 0.8),
    ],
)
def test_a_member_is_the_same_in_every_company(name, codec, correlation):
    """Bytes of a member: in ensembles of any size, its case alone or among others, at any place of the batch."""
    initial = dataset(RBC, samples=5)
    model = emulator(name, codec=codec, correlation=correlation)
    whole = model.forecast(initial, steps=2, members=3)
    fewer = model.forecast(initial, steps=2, members=1)
    np.testing.assert_array_equal(values(whole.isel(member=[0])), values(fewer))
    for case in (0, 3, 4):
        alone = model.forecast(initial.isel(sample=[case]), steps=2, members=3)
        np.testing.assert_array_equal(values(whole.isel(sample=[case])), values(alone))
    turned = model.forecast(initial.isel(sample=[4, 2, 0]), steps=2, members=2)
    np.testing.assert_array_equal(values(whole.isel(sample=[4, 2, 0], member=[0, 1])), values(turned))
    assert float(np.abs(values(whole.isel(member=1)) - values(whole.isel(member=2))).max()) > 0.01


LEADS, MEMBERS, SAMPLES = 4, 3, 4


@cache
def company(codec: str) -> tuple[Emulator, xr.Dataset]:
    """A model whose noise remembers, and all that it forecasts."""
    made = emulator(codec=codec, correlation=0.7)
    return made, made.forecast(dataset(RBC, samples=SAMPLES), LEADS, members=MEMBERS, seed=2, chunk=SAMPLES * MEMBERS)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    codec=st.sampled_from(["identity", "dcae"]),
    samples=st.lists(st.integers(0, SAMPLES - 1), min_size=1, max_size=5),
    members=st.integers(1, MEMBERS),
    chunk=st.integers(1, 16),
    cuts=st.lists(st.integers(1, LEADS - 1), max_size=2),
    stored=st.booleans(),
)
def test_bytes_depend_on_nothing_else(tmp_path_factory, codec, samples, members, chunk, cuts, stored):
    """Any samples in any order, any number of members and rows at once, stopped and continued anywhere, written or not."""
    made, whole = company(codec)
    state = dataset(RBC, samples=SAMPLES).isel(sample=samples)
    path = tmp_path_factory.mktemp("forecasts")
    for begin, end in itertools.pairwise([0, *sorted(set(cuts)), LEADS]):
        out = path / f"{end}.zarr" if stored else None
        state = made.forecast(state, end - begin, members=members, seed=2, chunk=chunk, out=out)
        expected = whole.isel(sample=samples, member=slice(members), lead_time=slice(begin, end))
        np.testing.assert_array_equal(values(state), values(expected))


@pytest.mark.parametrize(
    ("name", "members"), [("si-em", 16), ("si-pf", 16), ("ddpm", 16), ("si-e", 1), ("deterministic", 1)]
)
def test_the_size_of_an_ensemble(name, members):
    made = emulator(name, KOLMOGOROV, micro_batch=16)
    assert made.deterministic == (members == 1)
    assert made.forecast(dataset(KOLMOGOROV, samples=1), 1).sizes["member"] == members


def test_the_states_are_those_of_the_forecast():
    made, initial = emulator(codec="dcae"), dataset(RBC)
    parameters = torch.from_numpy(RBC.conditioning(initial))
    whole = made.forecast(initial, 3, members=2, seed=1, chunk=2)
    for k, x in enumerate(made.states(made.stack.pack(initial), parameters, 3, 2, 1)):
        assert x.shape == (3, 2, 4, 16, 8) and x.dtype == torch.float32
        u = made.stack.denormalise(x.double()).float()
        np.testing.assert_array_equal(u[:, :, 1], whole.pressure[:, :, k])


def test_the_network_sees_batches_of_one_size():
    sizes = []

    class Watched(Persistence):
        def forward(self, z, cond, *, noise):
            sizes.append((len(z), len(cond.parameters), len(noise(0))))
            return z

    emulator(stepper=Watched(), micro_batch=4).forecast(dataset(RBC, samples=3), steps=2, members=3)
    assert sizes == [(4, 4, 4)] * 6  # nine rows: 4 + 4 + 1 and three repeated ones


def test_parameters_belong_to_their_case():
    initial = dataset(RBC, samples=3).assign_coords(Rayleigh=("sample", [1e5, 1e6, 1e7]))
    seen = []

    class Watched(Persistence):
        def forward(self, z, cond, *, noise):
            seen.append(cond.parameters[:, 0].clone())
            return z

    emulator(stepper=Watched(), micro_batch=6).forecast(initial, steps=1, members=2)
    expected = torch.from_numpy(RBC.conditioning(initial))[:, 0].repeat_interleave(2)
    assert torch.equal(seen[0], expected) and len(set(expected.tolist())) == 3


def test_seeds():
    sampled = dict.fromkeys(("si-em", "si-em-state", "edm", "deterministic-dressed"), True)
    for name, changes in (sampled | dict.fromkeys(("si-e", "si-e-state", "deterministic"), False)).items():
        forecast = lambda seed, name=name: values(emulator(name).forecast(dataset(RBC), 2, members=2, seed=seed))  # noqa: E731
        first = forecast(0)
        np.testing.assert_array_equal(first, forecast(0))
        assert changes != np.array_equal(first, forecast(1)), name
        assert changes != np.array_equal(first[:, :, 0], first[:, :, 1]), name


def test_noise_of_a_member_and_a_step():
    def draw(seed: int = 0, step: int = 0, member: int = 0, k: int = 0) -> torch.Tensor:
        return Noise(seed, (2, 64, 64)).draw(step, member, k)

    draws = [draw(), draw(seed=1), draw(step=1), draw(member=1), draw(k=1), draw(seed=-1)]
    for i, a in enumerate(draws):
        for b in draws[:i]:
            assert abs(float((a * b).mean())) < 0.05
        assert float(a.mean()) == pytest.approx(0, abs=0.05) and float(a.std()) == pytest.approx(1, abs=0.05)
    batch = Noise(0, (2, 64, 64)).of(3, torch.tensor([1, 0, 1]), torch.device("cpu"))(1)
    assert torch.equal(batch, torch.stack([draw(step=3, member=m, k=1) for m in (1, 0, 1)]))


def test_members_of_a_seed_never_change():
    """White noise is that of one generator per member and step, so stored forecasts can be made again."""
    digest = hashlib.blake2b(b"5/2/3", digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
    first, second = torch.randn(4, 3, generator=generator), torch.randn(4, 3, generator=generator)
    noise = Noise(5, (4, 3))
    assert torch.equal(noise.draw(3, 2, 1), second) and torch.equal(noise.draw(3, 2, 0), first)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_noise_of_successive_steps_is_an_autoregression(rho):
    """Variance 1 at every step and correlation rho^lag, within five standard errors; draws and members stay apart."""
    points, steps = 256 * 256, 6
    noise = Noise(0, (256, 256), rho)
    e = torch.stack([torch.stack([noise.draw(t, 0, 0), noise.draw(t, 1, 0), noise.draw(t, 0, 1)]) for t in range(steps)])
    e = e.flatten(2).double()
    for t in range(steps):
        assert bool(((e[t].square().mean(1) - 1).abs() < 5 * math.sqrt(2 / points)).all())
        for lag in range(1, steps - t):
            error = math.sqrt((1 + rho ** (2 * lag)) / points)
            assert bool((((e[t] * e[t + lag]).mean(1) - rho**lag).abs() < 5 * error).all()), (t, lag)
        others = torch.stack([(e[t, a] * e[t, b]).mean() for a, b in ((0, 1), (0, 2), (1, 2))])
        assert bool((others.abs() < 5 / math.sqrt(points)).all())


@pytest.mark.parametrize("rho", [0.0, 0.7])
def test_the_order_of_asking_for_noise_does_not_matter(rho):
    keys = list(itertools.product(range(4), range(2), range(3)))  # step, member, draw
    noise = Noise(1, (3, 2), rho)
    in_order = {key: noise.draw(*key) for key in keys}
    for backwards in (keys[::-1], [keys[i] for i in torch.randperm(len(keys), generator=torch.Generator().manual_seed(0))]):
        noise = Noise(1, (3, 2), rho)
        for key in (*backwards, *backwards):
            assert torch.equal(noise.draw(*key), in_order[key]), key
    for key in keys:
        assert torch.equal(Noise(1, (3, 2), rho).draw(*key), in_order[key]), key


def test_correlated_noise_starts_as_white_noise():
    white, correlated = Noise(2, (3, 2)), Noise(2, (3, 2), 0.6)
    assert torch.equal(white.draw(0, 1, 2), correlated.draw(0, 1, 2))
    expected = 0.6 * white.draw(0, 1, 2) + 0.8 * white.draw(1, 1, 2)
    torch.testing.assert_close(correlated.draw(1, 1, 2), expected)


def test_the_correlation_reaches_the_stepper():
    """A random walk: the variance of the sum of two steps is 2 + 2 rho."""

    class Walk(Persistence):
        def forward(self, z, cond, *, noise):
            return z + noise(0)

    initial, rho = dataset(KOLMOGOROV.with_grid((64, 64)), samples=1), 0.8
    model = emulator(system=KOLMOGOROV.with_grid((64, 64)), stepper=Walk(), correlation=rho)
    away = (model.forecast(initial, steps=2).vorticity - initial.vorticity).values[0, 0]
    assert away[0].var() == pytest.approx(1, rel=5 * math.sqrt(2 / 4096))
    assert away[1].var() == pytest.approx(2 + 2 * rho, rel=5 * math.sqrt(2 / 4096))


# what is known exactly ---------------------------------------------------------------------------------------------


def test_persistence_is_exact():
    initial = dataset(RBC)
    ds = emulator(stepper=Persistence()).forecast(initial, steps=3, members=2)
    for name in RBC.field_names:
        expected = np.broadcast_to(initial[name].values[:, None, None], ds[name].shape)
        np.testing.assert_allclose(ds[name], expected, rtol=1e-6, atol=1e-6)


def test_climatology_forgets_the_state():
    mean = torch.randn(4, 16, 8)
    ds = emulator(stepper=Climatology(mean)).forecast(dataset(RBC), steps=2)
    assert np.ptp(values(ds), axis=(1, 2, 3)).max() == 0
    np.testing.assert_allclose(ds.pressure[0, 0, 0], 2.0 * mean[1] + 0.5, rtol=1e-5, atol=1e-6)


def test_reconstruct_is_decode_of_encode():
    model = emulator(codec="dcae")
    x, parameters = model.stack.pack(dataset(RBC, samples=5)), torch.from_numpy(RBC.conditioning(dataset(RBC, samples=5)))
    alone = torch.cat([model.reconstruct(x[i : i + 1], parameters[i : i + 1]) for i in range(5)])
    assert torch.equal(model.reconstruct(x, parameters), alone)
    assert torch.equal(emulator().reconstruct(x, parameters), x)


def test_a_latent_rollout_decodes_for_output_alone():
    """The state of step 2 is that of step 1, not its decoded and encoded picture."""
    model = emulator("deterministic", codec="dcae")
    initial = dataset(RBC, samples=1)
    two = model.forecast(initial, steps=2)
    again = two.isel(member=0, lead_time=0, drop=True)
    restarted = model.forecast(again, steps=1)
    assert float(np.abs(values(restarted)[:, :, :, 0] - values(two)[:, :, :, 1]).max()) > 1e-4


# bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "message"), [
    ({"steps": 0}, "steps of at least 1, found 0"),
    ({"steps": 2, "members": 0}, "members of at least 1, found 0"),
    ({"steps": 2, "chunk": 0}, "a chunk has at least 1 row, found 0"),
])  # fmt: skip
def test_numbers_below_one(options, message):
    with pytest.raises(InputError, match=message):
        emulator().forecast(dataset(RBC), **options)
