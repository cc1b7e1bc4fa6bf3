"""Interpolants: end points, hand derivatives against autograd, read-outs and the law of the SDE for a Gaussian."""

from __future__ import annotations

import pytest
import torch
from exact import gaussian_drift, law

from physinterp.interpolant import BrownianInterpolant, LinearInterpolant, QuadraticInterpolant

KINDS = [LinearInterpolant, QuadraticInterpolant, BrownianInterpolant]
S = torch.linspace(0.03, 0.97, 13, dtype=torch.float64)
CASES = [(0.0, 1.0, 1.0, 1.0), (-2.0, 0.7, 0.04, 0.9), (1.3, -3.0, 16.0, 0.5)]  # x0, mu, C, sigma

each_kind = pytest.mark.parametrize("kind", KINDS)
each_case = pytest.mark.parametrize(("x0", "mu", "c", "sigma"), CASES)


def derivative(f, s: torch.Tensor) -> torch.Tensor:
    s = s.clone().requires_grad_()
    return torch.autograd.grad(f(s).sum(), s)[0]


@each_kind
def test_end_points(kind):
    ends = kind(0.7).coefficients(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert ends.alpha.tolist() == [1, 0] and ends.beta.tolist() == [0, 1] and ends.gamma.tolist() == [0, 0]


@each_kind
def test_derivatives_against_autograd(kind):
    interpolant = kind(0.7)
    c = interpolant.coefficients(S)
    torch.testing.assert_close(c.alpha_dot, derivative(lambda s: interpolant.coefficients(s).alpha, S))
    torch.testing.assert_close(c.beta_dot, derivative(lambda s: interpolant.coefficients(s).beta, S))
    gamma_dot = derivative(lambda s: interpolant.coefficients(s).gamma, S)
    torch.testing.assert_close(c.eta, gamma_dot - c.g0**2 / (2 * c.gamma), rtol=1e-12, atol=1e-12)


@each_kind
def test_the_target_is_the_velocity_minus_half_the_diffusion(kind):
    """target = d x_s / ds at fixed z, plus what the noise of the SDE adds by itself."""
    interpolant = kind(0.7)
    x0, x1, z = torch.randn(3, len(S), dtype=torch.float64)
    bridge = interpolant.bridge(x0, x1, S, z)
    velocity = derivative(lambda s: interpolant.bridge(x0, x1, s, z).x_s, S)
    c = interpolant.coefficients(S)
    torch.testing.assert_close(bridge.target, velocity - c.g0**2 / (2 * c.gamma) * z)


@each_kind
@each_case
def test_read_outs_with_the_exact_drift(kind, x0, mu, c, sigma):
    interpolant = kind(sigma)
    m, k, slope = law(interpolant, S, x0, mu, c)
    w = interpolant.coefficients(S)
    x = m + k.sqrt() * torch.linspace(-2.5, 2.5, len(S)).double()
    b = w.alpha_dot * x0 + w.beta_dot * mu + slope * (x - m)
    source = torch.full_like(x, x0)
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(interpolant.clean(b, x, source, S), mu + w.beta * c * (x - m) / k, **close)
    torch.testing.assert_close(interpolant.noise(b, x, source, S), w.gamma * (x - m) / k, **close)
    torch.testing.assert_close(interpolant.score(b, x, source, S), -(x - m) / k, **close)
    # the three read-outs and the state agree with each other
    whole = w.alpha * x0 + w.beta * interpolant.clean(b, x, source, S) + w.gamma * interpolant.noise(b, x, source, S)
    torch.testing.assert_close(whole, x, **close)


@each_kind
@each_case
def test_the_sde_keeps_the_law_of_the_interpolant(kind, x0, mu, c, sigma):
    """dX = b ds + g0 dW with slope a: m' = b(m) and K' = 2 a K + g0^2."""
    interpolant = kind(sigma)
    _, k, slope = law(interpolant, S, x0, mu, c)
    w = interpolant.coefficients(S)
    mean_dot = derivative(lambda s: law(interpolant, s, x0, mu, c)[0], S)
    torch.testing.assert_close(mean_dot, w.alpha_dot * x0 + w.beta_dot * mu)
    variance_dot = derivative(lambda s: law(interpolant, s, x0, mu, c)[1], S)
    torch.testing.assert_close(variance_dot, 2 * slope * k + w.g0**2, rtol=1e-10, atol=1e-10)


@each_case
def test_closed_form_of_the_linear_drift(x0, mu, c, sigma):
    interpolant = LinearInterpolant(sigma)
    m, k, slope = law(interpolant, S, x0, mu, c)
    x = m + k.sqrt()
    torch.testing.assert_close(
        gaussian_drift(x, S, torch.tensor(x0, dtype=torch.float64), mu, c, sigma), mu - x0 + slope * (x - m)
    )
    # s = 0 is no singularity: the mean of the change, and the slope of the limit
    at_zero = gaussian_drift(torch.tensor(x0 + 0.1), torch.tensor(0.0), torch.tensor(x0), mu, c, sigma)
    assert float(at_zero) == pytest.approx(mu - x0 + 0.1 * (c - sigma**2) / sigma**2)


@each_kind
def test_sigma_per_channel(kind):
    sigma = torch.tensor([0.5, 2.0], dtype=torch.float64)[:, None, None]
    x0, x1, z = torch.randn(3, 4, 2, 3, 5, dtype=torch.float64)
    s = torch.rand(4, dtype=torch.float64)[:, None, None, None]
    both = kind(sigma).bridge(x0, x1, s, z)
    assert both.x_s.shape == both.target.shape == x0.shape
    for channel, value in enumerate((0.5, 2.0)):
        one = kind(value).bridge(x0, x1, s, z)
        torch.testing.assert_close(both.x_s[:, channel], one.x_s[:, channel])
        torch.testing.assert_close(both.target[:, channel], one.target[:, channel])
    clean = kind(sigma).clean(both.target, both.x_s, x0, s)
    torch.testing.assert_close(clean, x1)  # target and state of one path determine its end


@each_kind
def test_dtype_follows_s(kind):
    for dtype in (torch.float32, torch.float64):
        c = kind(0.3).coefficients(torch.rand(2, dtype=dtype))
        assert {v.dtype for v in vars(c).values()} == {dtype}
