"""The residual covariance as an operator: against the dense matrix, truncated, as colour, on shifted fields, stored."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from physinterp.calibration import PATTERNS, Covariance, Shrinkage, White
from physinterp.checkpoint import save_tensors

CASES = [  # *S and periodic axes: one, two and none; even and odd sizes
    ((6, 3), (-2,)),
    ((5, 3), (-2,)),
    ((3, 6), (-1,)),
    ((3, 5), (-1,)),
    ((4, 6), (-2, -1)),
    ((6, 5), (-2, -1)),
    ((5, 4), (-2, -1)),
    ((5, 3), (-2, -1)),
    ((3, 4), ()),
]
each_case = pytest.mark.parametrize(("shape", "periodic"), CASES)


def residuals(shape: tuple[int, ...], periodic: tuple[int, ...], n: int = 200) -> Tensor:
    """Two channels of different size; the second is the first, moved by one cell along each axis, with noise of its own."""
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(n, 2, *shape, generator=generator, dtype=torch.float64)
    first = white[:, 0] + white[:, 0].roll(1, -1) * torch.linspace(0.5, 1, shape[-1], dtype=torch.float64)
    moved = first.roll([1] * len(shape), dims=[a - len(shape) for a in range(len(shape))])
    return torch.stack([0.2 * first, 3 * (moved + 0.4 * white[:, 1])], 1)


def fitted(shape: tuple[int, ...], periodic: tuple[int, ...], rank: int = 1000, dtype=torch.float64) -> Covariance:
    covariance = Covariance(2, shape, periodic, rank).to(dtype)
    covariance.fit(residuals(shape, periodic))
    return covariance


def matrix(f: Callable[[Tensor], Tensor], shape: tuple[int, ...], dtype=torch.float64) -> Tensor:
    """The matrix (D, D) of a linear map of states (2, *S)."""
    d = 2 * math.prod(shape)
    return f(torch.eye(d, dtype=dtype).view(d, 2, *shape)).flatten(1).T


def identity(r: Tensor) -> Tensor:
    return r


def dense(shape: tuple[int, ...], periodic: tuple[int, ...]) -> Tensor:
    """Sample covariance, the mean over all shifts along the periodic axes."""
    x = residuals(shape, periodic)
    for axis in periodic:
        x = torch.cat([x.roll(k, axis) for k in range(shape[axis])])
    return x.flatten(1).T @ x.flatten(1) / len(x)


# the operator ------------------------------------------------------------------------------------------------------


@each_case
def test_the_operator_is_the_sample_covariance(shape, periodic):
    """To rounding: a covariance that is homogeneous along an axis is block-diagonal in its wavenumbers."""
    covariance, expected = fitted(shape, periodic), dense(shape, periodic)
    colour = matrix(covariance.colour, shape)
    torch.testing.assert_close(colour @ colour.T, expected, rtol=1e-10, atol=1e-10)
    sigma = covariance.sigma.expand(2, *shape).flatten()
    r = matrix(lambda x: covariance.apply(identity, x), shape)
    torch.testing.assert_close(sigma[:, None] * r * sigma, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(sigma.view(2, -1)[:, 0] ** 2, expected.diag().view(2, -1).mean(1))
    across = expected[: len(expected) // 2, len(expected) // 2 :]
    assert not torch.allclose(across, across.T, rtol=0.5)  # a wrong conjugate would be seen


@each_case
def test_functions_of_the_operator(shape, periodic):
    covariance = fitted(shape, periodic)
    r = matrix(lambda x: covariance.apply(identity, x), shape)
    values, vectors = torch.linalg.eigh(r)
    assert float(values.min()) > -1e-12
    for f in (torch.ones_like, torch.sqrt, lambda r: 1 / (1 + 3 * r), lambda r: r**2):
        expected = vectors @ torch.diag(f(values.clamp(min=0))) @ vectors.T
        found = matrix(lambda x, f=f: covariance.apply(f, x), shape)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)
    root = matrix(lambda x: covariance.apply(torch.sqrt, covariance.apply(torch.sqrt, x)), shape)
    torch.testing.assert_close(root, r, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("shape", "periodic"), [((6, 3), (-2,)), ((5, 3), (-2,)), ((3, 4), ())])
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_truncation_keeps_the_trace_and_the_leading_eigenvectors(shape, periodic, rank):
    whole, short = fitted(shape, periodic), fitted(shape, periodic, rank)
    assert short.values.shape == (len(whole.values), rank) and short.vectors.shape[1:] == (
        *whole.vectors.shape[1:2],
        rank,
        2,
    )
    torch.testing.assert_close(short.values, whole.values[:, -rank:])
    r, cut = (matrix(lambda x, c=c: c.apply(identity, x), shape) for c in (whole, short))
    torch.testing.assert_close(cut.trace(), r.trace())
    torch.testing.assert_close(cut, cut.T)
    one = matrix(lambda x: short.apply(torch.ones_like, x), shape)
    torch.testing.assert_close(one, torch.eye(len(r), dtype=torch.float64))
    vectors = torch.view_as_complex(whole.vectors)[0, :, -rank:].real.mT  # of the mean along the periodic axes
    lengths = math.prod(shape[a] for a in periodic)
    modes = vectors.view(rank, 2, *(1 if a - 2 in periodic else n for a, n in enumerate(shape))).expand(-1, 2, *shape)
    stretched = short.apply(identity, modes / math.sqrt(lengths))
    torch.testing.assert_close(stretched, modes / math.sqrt(lengths) * short.values[0][:, None, None, None])


def test_the_rank_is_bounded_by_the_size_of_a_wavenumber():
    assert Covariance(2, (6, 3), (-2,)).values.shape == (4, 6)
    assert Covariance(2, (6, 30), (-2,)).values.shape == (4, PATTERNS)
    assert Covariance(2, (6, 5), (-2, -1)).values.shape == (18, 2)
    assert Covariance(2, (3, 4), (), rank=30).values.shape == (1, 24)


@each_case
def test_it_starts_as_white_noise(shape, periodic):
    x = torch.randn(3, 2, *shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(Covariance(2, shape, periodic).colour(x), x)


# colour ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1000, 2])
def test_coloured_noise_has_the_covariance(rank):
    """Of 20,000 draws, within five standard errors sqrt((C_ii C_jj + C_ij^2) / n)."""
    n, shape = 20_000, (6, 3)
    covariance = fitted(shape, (-2,), rank, torch.float32)
    white = torch.randn(n, 2, *shape, generator=torch.Generator().manual_seed(2))
    x = covariance.colour(white).flatten(1).double()
    if rank == 1000:
        c = dense(shape, (-2,))
    else:
        sigma = covariance.sigma.expand(2, *shape).flatten().double()
        c = sigma[:, None] * matrix(lambda x: covariance.apply(identity, x), shape) * sigma
    error = ((c.diag()[:, None] * c.diag() + c**2) / n).sqrt()
    assert bool(((x.T @ x / n - c).abs() < 5 * error).all())
    assert bool((x.mean(0).abs() < 5 * (c.diag() / n).sqrt()).all())


@each_case
def test_shifts_along_periodic_axes(shape, periodic):
    """The operator commutes with them, and with no shift along another axis."""
    covariance = fitted(shape, periodic, rank=3)
    x = torch.randn(4, 2, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for axis in (-2, -1):
        found, expected = covariance.colour(x.roll(1, axis)), covariance.colour(x).roll(1, axis)
        assert torch.allclose(found, expected, rtol=0, atol=1e-10) == (axis in periodic)


def test_rows_of_a_batch_do_not_mix():
    covariance = fitted((6, 3), (-2,))
    x = torch.randn(4, 2, 6, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    alone = torch.cat([covariance.colour(x[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(covariance.colour(x), alone, rtol=1e-13, atol=1e-13)


# fit ---------------------------------------------------------------------------------------------------------------


@each_case
def test_a_given_sigma_moves_nothing_but_the_unit(shape, periodic):
    sigma = torch.tensor([2.0, 0.7], dtype=torch.float64)[:, None, None]
    own, given = fitted(shape, periodic), Covariance(2, shape, periodic, 1000).double()
    given.fit(residuals(shape, periodic), sigma)
    assert torch.equal(given.sigma, sigma) and not torch.allclose(own.sigma, sigma)
    a, b = (matrix(c.colour, shape) for c in (own, given))
    torch.testing.assert_close(a @ a.T, b @ b.T, rtol=1e-10, atol=1e-10)
    assert float(matrix(lambda x: own.apply(identity, x), shape).trace()) == pytest.approx(2 * math.prod(shape))


def test_sigma_may_be_its_own():
    """As in a drift whose sigma was set before its training."""
    covariance = fitted((6, 3), (-2,))
    sigma, colour = covariance.sigma.clone(), matrix(covariance.colour, (6, 3))
    covariance.fit(residuals((6, 3), (-2,)), covariance.sigma)
    assert torch.equal(covariance.sigma, sigma)
    torch.testing.assert_close(matrix(covariance.colour, (6, 3)), colour)


@each_case
def test_a_channel_without_residual_gets_no_noise(shape, periodic):
    x = residuals(shape, periodic)
    x[:, 0] = 0
    covariance = Covariance(2, shape, periodic)
    covariance.fit(x)
    assert all(bool(torch.isfinite(v).all()) for v in covariance.state_dict().values()) and bool(
        (covariance.sigma > 0).all()
    )
    noise = covariance.colour(torch.randn(50, 2, *shape, generator=torch.Generator().manual_seed(4)))
    assert float(noise[:, 0].abs().max()) < 1e-11 and float(noise[:, 1].std()) > 1


def test_fewer_residuals_than_points():
    """Of an area between walls: the same operator as from the whole matrix, which is not written down."""
    residuals = torch.randn(40, 2, 6, 8, generator=torch.Generator().manual_seed(3)).double().cumsum(-1)
    found = Covariance(2, (6, 8), ()).double()
    found.fit(residuals, torch.ones(2, 1, 1).double())
    flat = residuals.flatten(1)
    values, vectors = torch.linalg.eigh(flat.T @ flat / 40)
    torch.testing.assert_close(found.values[0], values[-PATTERNS:])
    torch.testing.assert_close(found.rest[0], values[:-PATTERNS].mean())
    x = torch.randn(3, 2, 6, 8, generator=torch.Generator().manual_seed(4)).double()
    kept = torch.cat([values[:-PATTERNS].mean().expand(96 - PATTERNS), values[-PATTERNS:]])
    expected = (x.flatten(1) @ vectors * kept) @ vectors.T
    torch.testing.assert_close(found.apply(lambda v: v, x).flatten(1), expected)


def test_few_residuals_span_few_directions():
    covariance = Covariance(2, (6, 3), (-2,), 1000).double()
    covariance.fit(residuals((6, 3), (-2,), n=2))
    colour = matrix(covariance.colour, (6, 3))
    assert bool(torch.isfinite(colour).all()) and int(torch.linalg.matrix_rank(colour, rtol=1e-6)) == 2 * 6


# storage and precision ---------------------------------------------------------------------------------------------


@each_case
def test_it_is_all_in_its_state(tmp_path, shape, periodic):
    covariance = fitted(shape, periodic, 2, torch.float32)
    save_tensors(covariance.state_dict(), tmp_path / "c.safetensors")
    other = Covariance(2, shape, periodic, 2)
    other.load_state_dict(load_file(tmp_path / "c.safetensors"))
    x = torch.randn(3, 2, *shape, generator=torch.Generator().manual_seed(5))
    assert torch.equal(other.colour(x), covariance.colour(x)) and not list(covariance.parameters())


@each_case
def test_single_precision(shape, periodic):
    """A state keeps its type, whatever that of the residuals; the values differ by rounding alone."""
    single, double = fitted(shape, periodic, dtype=torch.float32), fitted(shape, periodic)
    x = torch.randn(3, 2, *shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    of_single, mixed, expected = single.colour(x.float()), single.colour(x), double.colour(x)
    assert of_single.dtype == torch.float32 and mixed.dtype == expected.dtype == torch.float64
    for found in (of_single.double(), mixed):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_white(dtype):
    x = torch.randn(3, 2, 4, 5, dtype=dtype)
    seen: list[Tensor] = []

    def f(r: Tensor) -> Tensor:
        seen.append(r)
        return (3 + r).sqrt()

    assert torch.equal(White().apply(f, x), 2 * x) and White().apply(f, x).dtype == dtype
    assert seen[0].dtype == dtype and float(seen[0]) == 1


# how far a forecast is to be trusted -------------------------------------------------------------------------------


def noisy(
    shape: tuple[int, ...], periodic: tuple[int, ...], rank: int = 1000, n: int = 60
) -> tuple[Shrinkage, Tensor, Tensor]:
    """Fitted to truths and forecasts that are them with white noise."""
    truths = residuals(shape, periodic, n)
    noise = torch.randn(truths.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    forecasts = truths + torch.tensor([0.1, 2.0]).double()[:, None, None] * noise
    shrinkage = Shrinkage(2, shape, periodic, rank).double()
    shrinkage.fit(residuals(shape, periodic, 200), forecasts, truths)
    return shrinkage, forecasts, truths


def power(x: Tensor, periodic: tuple[int, ...]) -> Tensor:
    """Mean square per wavenumber, over all else."""
    y = torch.fft.fftn(x, dim=periodic) if periodic else x
    return y.abs().square().sum([a for a in range(-3, 0) if a not in periodic]).mean(0)


@each_case
def test_the_trusted_part_and_the_rest_have_the_spectrum_of_the_truth(shape, periodic):
    shrinkage, forecasts, truths = noisy(shape, periodic)
    assert float(shrinkage.values.min()) > 0 and float(shrinkage.values.max()) < 1
    mean = shrinkage(forecasts)
    rest = truths - mean
    torch.testing.assert_close(power(mean, periodic) + power(rest, periodic), power(truths, periodic))
    assert float(power(forecasts, periodic).sum()) > 1.2 * float(power(truths, periodic).sum())
    assert float(rest.square().mean()) < 0.9 * float((truths - forecasts).square().mean())


@each_case
@pytest.mark.parametrize("rank", [1, 3, 1000])
def test_each_pattern_has_its_regression(shape, periodic, rank):
    """By matrices: project truth and forecast on each pattern, moved to every place, and regress; so for what is left."""
    shrinkage, forecasts, truths = noisy(shape, periodic, rank)
    count, kept = shrinkage.values.shape
    one = Shrinkage(2, shape, periodic, kept).double()
    one.load_state_dict(shrinkage.state_dict())

    def regression(values: Tensor, rest: Tensor) -> float:
        one.values.copy_(values)
        one.rest.copy_(rest)
        p = matrix(one, shape)
        y, x = forecasts.flatten(1) @ p.T, truths.flatten(1) @ p.T
        return float(((x * y).sum() / y.square().sum()).clamp(0, 1))

    for k in range(count):
        at_k = torch.arange(count) == k
        for j in range(kept):
            found = regression(at_k[:, None] * (torch.arange(kept) == j), torch.zeros(count))
            assert float(shrinkage.values[k, j]) == pytest.approx(found, abs=1e-8)
        if 2 * math.prod(shape) // math.prod(shape[a] for a in periodic) > kept:
            assert float(shrinkage.rest[k]) == pytest.approx(regression(torch.zeros(count, kept), at_k), abs=1e-8)
        else:
            assert float(shrinkage.rest[k]) == 1


@each_case
def test_a_forecast_that_is_right_is_left_alone(shape, periodic):
    truths = residuals(shape, periodic, 30)
    shrinkage = Shrinkage(2, shape, periodic, 3).double()
    torch.testing.assert_close(shrinkage(truths), truths)  # as it starts
    shrinkage.fit(residuals(shape, periodic), truths, truths)
    torch.testing.assert_close(shrinkage(truths), truths, rtol=1e-7, atol=1e-7)
    shrinkage.fit(residuals(shape, periodic), 0.5 * truths, truths)  # never made larger
    torch.testing.assert_close(shrinkage(truths), truths, rtol=1e-7, atol=1e-7)
    shrinkage.fit(residuals(shape, periodic), -truths, truths)
    assert float(shrinkage(truths).abs().max()) < 1e-7


def test_what_the_truth_never_has_is_taken_out():
    """A channel, and a wavenumber, that are 0 in the truth and noise in the forecast."""
    truths = residuals((8, 3), (-2,))
    truths = torch.stack([truths[:, 0] - truths[:, 0].mean(-2, keepdim=True), torch.zeros_like(truths[:, 1])], 1)
    forecasts = truths + 0.1 * torch.randn(truths.shape, generator=torch.Generator().manual_seed(3)).double()
    shrinkage = Shrinkage(2, (8, 3), (-2,)).double()
    shrinkage.fit(truths, forecasts, truths)
    found = shrinkage(forecasts)
    assert float(found[:, 1].abs().max()) < 1e-12 and float(found[:, 0].mean(-2).abs().max()) < 1e-12
    assert float((found[:, 0] - truths[:, 0]).square().mean()) < float((forecasts - truths)[:, 0].square().mean())


def test_patterns_of_fewer_states_than_points():
    """What the states do not span is one pattern more, judged by pairs that were not among them."""
    generator = torch.Generator().manual_seed(3)
    states, truths = (torch.randn(n, 2, 6, 8, generator=generator).double().cumsum(-1) for n in (40, 500))
    shrinkage = Shrinkage(2, (6, 8), ()).double()
    shrinkage.fit(states, truths + 0.3 * torch.randn(truths.shape, generator=generator).double(), truths)
    assert float(shrinkage.values.min()) > 0.8 and 0.8 < float(shrinkage.rest) < 1


def test_fewer_states_than_patterns():
    """The patterns that are missing are none, and what they would have held is judged with the rest."""
    generator = torch.Generator().manual_seed(3)
    truths = torch.randn(200, 2, 6, 8, generator=generator).double()
    shrinkage = Shrinkage(2, (6, 8), ()).double()
    shrinkage.fit(truths[:5], truths + torch.randn(truths.shape, generator=generator).double(), truths)
    vectors = torch.view_as_complex(shrinkage.vectors)[0]
    torch.testing.assert_close((vectors.mH @ vectors).real, torch.diag((torch.arange(PATTERNS) >= PATTERNS - 5).double()))
    assert float(shrinkage.rest) == pytest.approx(0.5, abs=0.02)
    torch.testing.assert_close(matrix(shrinkage, (6, 8)), matrix(shrinkage, (6, 8)).T)
    covariance = Covariance(2, (6, 8), ()).double()
    covariance.fit(truths[:5])
    assert bool(torch.isfinite(covariance.colour(truths)).all())
