"""The codecs: identity at the start, equivariance, saturation, standardised latents, storage, training."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from physinterp.autoencoder import Autoencoder, Identity, saturate
from physinterp.errors import InputError
from physinterp.nn.dcae import Decoder, Encoder, block_modes
from physinterp.types import Boundary, Codec, Conditioning

PERIODIC: tuple[Boundary, Boundary] = ("periodic", "periodic")
WALL: tuple[Boundary, Boundary] = ("periodic", "wall")
NONE = Conditioning()


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def make(
    boundary: tuple[Boundary, Boundary] = PERIODIC, latent: int = 6, bound: float = 5.0, parameters: int = 0
) -> Autoencoder:
    """Two fields, down-sampling 4 through two levels."""

    def half(kind: type[Encoder] | type[Decoder]) -> Encoder | Decoder:
        return kind(2, latent, boundary, widths=(8, 16), blocks=1, patch=2, parameters=parameters)

    return Autoencoder(half(Encoder), half(Decoder), bound)  # type: ignore[arg-type]


def shake(codec: Autoencoder) -> Autoencoder:
    """Moves every weight off its starting value, so that nothing is zero by construction."""
    with torch.no_grad():
        for p in codec.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return codec


def smooth(n: int, shape: tuple[int, int] = (16, 16)) -> Tensor:
    """Random periodic fields of the wavenumbers 1 and 2, shape (n, 2, *shape), of order one."""
    x, y = (torch.arange(m) * 2 * math.pi / m for m in shape)
    phase = 2 * math.pi * torch.rand(n, 2, 4, 1, 1)
    k, m = (torch.tensor(q).view(4, 1, 1) for q in ([1, 0, 1, 2], [0, 1, 2, 1]))
    return (k * x[:, None] + m * y + phase).sin().sum(2) / math.sqrt(2)


def train(codec: Autoencoder, x: Tensor, cond: Conditioning, steps: int, lr: float = 3e-3) -> None:
    optimiser = torch.optim.Adam(codec.parameters(), lr=lr)
    for _ in range(steps):
        optimiser.zero_grad()
        codec.loss(x, cond).backward()
        optimiser.step()


def test_saturation_is_strictly_bounded_odd_and_the_identity_near_zero() -> None:
    z = torch.cat([torch.randn(1000) * 10**e for e in (-3.0, 0.0, 1.0, 2.0)])
    for bound in (0.5, 5.0):
        assert (saturate(z, bound).abs() < bound).all()
    assert torch.equal(saturate(-z), -saturate(z))
    assert torch.allclose(saturate(z.double()), z / (1 + z.double() ** 2 / 25).sqrt(), atol=1e-12)
    small = torch.linspace(-1e-3, 1e-3, 11)
    assert torch.allclose(saturate(small), small, rtol=1e-6)
    assert saturate(torch.tensor([1e9, -1e9])).tolist() == [5.0, -5.0]
    assert saturate(z.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("boundary", [PERIODIC, WALL])
def test_latents_are_bounded_before_standardisation(boundary: tuple[Boundary, Boundary]) -> None:
    codec = shake(make(boundary, bound=2.0))
    z = codec.encode(100 * torch.randn(2, 2, 16, 8), NONE)
    assert 1.5 < z.abs().max() < 2


def test_modes_are_orthogonal_and_start_with_the_block_means() -> None:
    for size in (2, 4, 8):
        kernels = block_modes(3, 3 * size**2, size).flatten(1)
        assert torch.allclose(size**2 * kernels @ kernels.T, torch.eye(len(kernels)), atol=1e-6)
        x = torch.randn(1, 3, 2 * size, size)
        means = torch.conv2d(x, block_modes(3, 3, size), stride=size)
        assert torch.allclose(means, torch.nn.functional.avg_pool2d(x, size), atol=1e-6)
    assert not block_modes(1, 6, 2)[4:].any()


@pytest.mark.parametrize("latent", [32, 40])
def test_identity_at_the_start_with_a_full_latent(latent: int) -> None:
    codec = make(WALL, latent=latent, bound=1e4)
    x = torch.randn(2, 2, 16, 8)
    assert (codec.decode(codec.encode(x, NONE), NONE) - x).abs().max() < 1e-5


def test_smooth_fields_survive_compression_at_the_start() -> None:
    codec, x = make(latent=8), smooth(8, (32, 32))
    assert codec.loss(x, NONE) < 0.02 * x.var()


@pytest.mark.parametrize("boundary", [PERIODIC, WALL])
@pytest.mark.parametrize("shape", [(16, 16), (8, 24), (32, 4)])
def test_shapes(boundary: tuple[Boundary, Boundary], shape: tuple[int, int]) -> None:
    codec: Autoencoder = make(boundary)
    x = torch.randn(3, 2, *shape)
    z = codec.encode(x, NONE)
    assert z.shape == (3, codec.latent_channels, *codec.latent_shape(shape))
    assert codec.decode(z, NONE).shape == x.shape
    assert codec.loss(x, NONE).shape == ()
    assert codec.downsampling == 4


def test_indivisible_axes_are_refused() -> None:
    codec = make()
    with pytest.raises(InputError, match="divisible by 4"):
        codec.latent_shape((16, 18))
    with pytest.raises(ValueError, match="divisible by 4"):
        codec.encode(torch.randn(1, 2, 16, 18), NONE)


def test_identity_codec() -> None:
    codec, x = Identity(3), torch.randn(2, 3, 8, 4)
    contract: Codec = codec
    assert contract.encode(x, NONE) is x
    assert contract.decode(x, NONE) is x
    assert (codec.latent_channels, codec.latent_shape((8, 4)), codec.downsampling) == (3, (8, 4), 1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("boundary", [PERIODIC, WALL])
def test_translation_along_periodic_axes(boundary: tuple[Boundary, Boundary], dtype: torch.dtype, tolerance: float) -> None:
    codec = shake(make(boundary)).to(dtype)
    x = torch.randn(2, 2, 16, 24, dtype=dtype)
    cells, tokens = ((4, 8), (1, 2)) if boundary == PERIODIC else ((4, 0), (1, 0))
    z = codec.encode(x, NONE)
    assert (codec.encode(x.roll(cells, (2, 3)), NONE) - z.roll(tokens, (2, 3))).abs().max() < tolerance
    y = codec.decode(z, NONE)
    moved = codec.decode(z.roll(tokens, (2, 3)), NONE)
    assert (moved - y.roll(cells, (2, 3))).abs().max() < tolerance * y.abs().max()


def test_a_wall_is_seen() -> None:
    codec, x = shake(make(WALL)), torch.randn(1, 2, 16, 24)
    z = codec.encode(x, NONE)
    assert (codec.encode(x.roll(8, 3), NONE) - z.roll(2, 3)).abs().max() > 1e-2
    assert (codec.encode(x.flip(3), NONE) - z.flip(3)).abs().max() > 1e-2
    y = codec.decode(z, NONE)
    assert (codec.decode(z.roll(2, 3), NONE) - y.roll(8, 3)).abs().max() > 1e-2


def test_standardisation() -> None:
    codec, x = shake(make(latent=6)), 2 + 3 * smooth(20)
    with torch.no_grad():  # one channel without variation
        codec.encoder.shortcut[5] = codec.encoder.head.conv.weight[5] = 0
    before = codec.decode(codec.encode(x, NONE), NONE)
    codec.fit_standardisation((q, NONE) for q in x.split(7))
    z = codec.encode(x, NONE)
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3), correction=0)
    assert torch.allclose(mean, torch.zeros(6), atol=1e-3)
    assert torch.allclose(std[:5], torch.ones(5), atol=1e-4)
    assert codec.std[5] == pytest.approx(1e-3 * float(codec.std.max()))
    assert torch.allclose(codec.decode(z, NONE), before, atol=1e-4)
    with pytest.raises(InputError, match="at least one batch"):
        codec.fit_standardisation([])


def test_storage(tmp_path: Path) -> None:
    codec, x = shake(make(WALL)), torch.randn(4, 2, 16, 8)
    codec.fit_standardisation([(x, NONE)])
    save_file(codec.state_dict(), tmp_path / "codec.safetensors")
    other = make(WALL)
    other.load_state_dict(load_file(tmp_path / "codec.safetensors"))
    z = codec.encode(x, NONE)
    assert torch.equal(other.encode(x, NONE), z)
    assert torch.equal(other.decode(z, NONE), codec.decode(z, NONE))
    assert torch.equal(other.std, codec.std)


def test_gradient_reaches_every_weight() -> None:
    codec, x = make(WALL, parameters=2), torch.randn(4, 2, 16, 8)
    cond = Conditioning(torch.randn(4, 2))
    train(codec, x, cond, steps=4)  # output layers, last convolutions and modulation leave zero in turn
    dead = [name for name, p in codec.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


def test_training_lowers_the_error_and_uses_the_parameters() -> None:
    codec, x, cond = make(latent=4, parameters=1), smooth(16), Conditioning(torch.randn(16, 1))
    start = codec.loss(x, cond).item()
    train(codec, x, cond, steps=40)
    assert codec.loss(x, cond).item() < 0.5 * start
    assert not torch.equal(codec.encode(x, cond), codec.encode(x, Conditioning(torch.zeros(16, 1))))
    with pytest.raises(ValueError, match="got none"):
        codec.encode(x, NONE)


def test_bfloat16_is_finite_and_close() -> None:
    codec, x = shake(make(WALL)), smooth(4)
    with torch.autocast("cpu", torch.bfloat16):
        z = codec.encode(x, NONE)
        loss = codec.loss(x, NONE)
        loss.backward()
    assert z.dtype == torch.float32
    assert (z - codec.encode(x, NONE)).abs().max() < 0.05 * z.abs().max()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in codec.parameters() if p.grad is not None)
