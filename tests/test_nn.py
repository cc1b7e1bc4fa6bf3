"""The backbones: shapes, equivariance, walls, the warm start from a deterministic twin, precision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from physinterp.nn.dit import DiT
from physinterp.nn.unet import UNet
from physinterp.types import Boundary, Conditioning

PERIODIC: tuple[Boundary, Boundary] = ("periodic", "periodic")
WALL: tuple[Boundary, Boundary] = ("periodic", "wall")
NONE = Conditioning()

Make = Callable[..., nn.Module]
Batch = tuple[Tensor, Tensor, Conditioning, Tensor]


def make_dit(boundary: tuple[Boundary, Boundary], **options: int) -> nn.Module:
    return DiT(4, 2, boundary, width=16, depth=2, heads=2, patch=2, **options)


def make_unet(boundary: tuple[Boundary, Boundary], **options: int) -> nn.Module:
    return UNet(4, 2, boundary, widths=(8, 16), **options)


BACKBONES = pytest.mark.parametrize("make", [make_dit, make_unet])


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def shake(net: nn.Module) -> nn.Module:
    """Moves every weight off its starting value, so that nothing is zero by construction."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


def train(net: nn.Module, batch: Callable[[], Batch], steps: int = 5) -> None:
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(steps):
        x, s, cond, target = batch()
        optimiser.zero_grad()
        (net(x, s, cond) - target).square().mean().backward()
        optimiser.step()


@BACKBONES
@pytest.mark.parametrize("shape", [(8, 8), (4, 24), (20, 8)])
def test_any_aspect_ratio(make: Make, shape: tuple[int, int]) -> None:
    net = make(WALL)
    assert net(torch.randn(3, 4, *shape), torch.rand(3), NONE).shape == (3, 2, *shape)


@BACKBONES
def test_output_starts_at_zero(make: Make) -> None:
    assert not make(WALL)(torch.randn(2, 4, 8, 8), torch.rand(2), NONE).any()


@BACKBONES
def test_indivisible_axis_is_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="divisible by 2, found"):
        make(PERIODIC)(torch.randn(1, 4, 8, 7), torch.rand(1), NONE)


def test_dit_width_must_fit_the_rotary_pairs() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        DiT(1, 1, PERIODIC, width=20, heads=4)


@BACKBONES
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("boundary", [PERIODIC, WALL])
def test_translation_along_periodic_axes(
    make: Make, boundary: tuple[Boundary, Boundary], dtype: torch.dtype, tolerance: float
) -> None:
    net = shake(make(boundary)).to(dtype)
    x, s = torch.randn(2, 4, 12, 20, dtype=dtype), torch.rand(2, dtype=dtype)
    shift = (4, 6) if boundary == PERIODIC else (4, 0)
    moved = net(x.roll(shift, (2, 3)), s, NONE)
    expected = net(x, s, NONE).roll(shift, (2, 3))
    assert (moved - expected).abs().max() < tolerance * expected.abs().max()
    assert (moved - moved[..., :1, :1]).abs().max() > 100 * tolerance  # the network does use its input


@BACKBONES
def test_a_wall_is_seen(make: Make) -> None:
    net = shake(make(WALL))
    x, s = torch.randn(1, 4, 8, 16), torch.rand(1)
    y = net(x, s, NONE)
    assert (net(x.roll(4, 3), s, NONE) - y.roll(4, 3)).abs().max() > 1e-2
    assert (net(x.flip(3), s, NONE) - y.flip(3)).abs().max() > 1e-2


def test_dit_tells_the_two_sides_of_a_uniform_state_apart() -> None:
    net = shake(make_dit(WALL))
    y = net(torch.ones(1, 4, 8, 16), torch.zeros(1), NONE)[..., ::2, ::2]
    assert (y - y.flip(3)).abs().max() > 1e-2
    assert torch.allclose(y, y[:, :, :1].expand_as(y), atol=1e-5)


@BACKBONES
def test_a_trained_twin_is_unchanged_by_noise_and_level(make: Make) -> None:
    net = make(WALL, clean_channels=2)
    clean, zeros, target = torch.randn(4, 2, 8, 8), torch.zeros(4, 2, 8, 8), torch.randn(4, 2, 8, 8)
    train(net, lambda: (torch.cat([clean, zeros], 1), torch.zeros(4), NONE, target))
    twin = net(torch.cat([clean, zeros], 1), torch.zeros(4), NONE)
    assert twin.abs().max() > 1e-3
    noisy = net(torch.cat([clean, torch.randn(4, 2, 8, 8)], 1), torch.rand(4), NONE)
    assert torch.equal(noisy, twin)


@BACKBONES
def test_gradient_reaches_every_weight(make: Make) -> None:
    net = make(WALL, parameters=2, clean_channels=2)

    def batch() -> Batch:
        x, cond, target = torch.randn(4, 4, 8, 8), Conditioning(torch.randn(4, 2)), torch.randn(4, 2, 8, 8)
        return x, torch.rand(4), cond, target

    train(net, batch, steps=4)  # gates and output layer leave zero one after the other
    dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


@BACKBONES
def test_parameters_and_level_matter_after_training(make: Make) -> None:
    net = make(PERIODIC, parameters=1)

    def batch() -> Batch:
        x, s, p = torch.randn(8, 4, 8, 8), torch.rand(8), torch.randn(8, 1)
        return x, s, Conditioning(p), x[:, :2] * (p + s[:, None])[..., None, None]

    train(net, batch, steps=10)
    x, s, p = torch.randn(8, 4, 8, 8), torch.rand(8), torch.randn(8, 1)
    y = net(x, s, Conditioning(p))
    assert (net(x, s, Conditioning(-p)) - y).abs().max() > 1e-4
    assert (net(x, 1 - s, Conditioning(p)) - y).abs().max() > 1e-4
    with pytest.raises(ValueError, match="got none"):
        net(x, s, NONE)


@BACKBONES
def test_bfloat16_is_finite_and_close(make: Make) -> None:
    net = shake(make(WALL))
    x, s = torch.randn(2, 4, 8, 8), torch.rand(2)
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x, s, NONE)
        y.float().square().mean().backward()
    exact = net(x, s, NONE)
    assert (y.float() - exact).abs().max() < 0.05 * exact.abs().max()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


@BACKBONES
def test_walls_of_any_length(make: Make) -> None:
    """An axis between walls is continued to what the network needs, and cut again; where it fits, nothing is added."""
    net, s = shake(make(WALL)), torch.zeros(3)
    assert net(torch.randn(3, 4, 8, 7), s, NONE).shape == (3, 2, 8, 7)
    x = torch.randn(3, 4, 8, 8)
    assert torch.equal(net(torch.cat([x, x[..., -1:]], -1)[..., :8], s, NONE), net(x, s, NONE))
    longer = net(torch.cat([x[..., :7], x[..., 6:7]], -1), s, NONE)
    assert torch.equal(net(x[..., :7], s, NONE), longer[..., :7])
