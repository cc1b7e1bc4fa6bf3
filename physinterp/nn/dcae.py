r"""Encoder and decoder of a deep-compression autoencoder (DC-AE): a linear shortcut and a network.

    encoder(x) = P x + f(x),   decoder(z) = P^+ z + g(z),   f = g = 0 at the start

P holds the lowest cosine modes (DCT-II) of every block of cells, P^+ is its transpose, scaled. So the pair
starts as the identity where the latent has as many numbers as the field, and otherwise as a smooth
approximation of each block; training only has to find what that misses. This one shortcut over all levels
takes the place of the one at every level of DC-AE (space to depth, mean over groups of channels), which
passes local means alone.

References: Chen et al. 2024, DC-AE, arXiv:2410.10733; Ahmed et al. 1974, Discrete cosine transform.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physinterp.nn.layers import Conv, Stage
from physinterp.types import Boundary, Conditioning


def block_modes(channels: int, latent_channels: int, size: int) -> Tensor:
    r"""The kernels P of the shortcut: the lowest cosine modes of a block of n x n cells, fields in turn.

        P_(kl)(i, j) = w_k w_l cos(pi k (i + 1/2) / n) cos(pi l (j + 1/2) / n) / n^2,   w_0 = 1, w_k = sqrt(2)

    The mode (0, 0) is the mean of the block; P P^T = 1 / n^2 on the modes kept, so P^+ = n^2 P^T. Modes are
    sorted by k^2 + l^2. Latent channels beyond C n^2 are zero.

    Arguments:
        channels: fields C.
        latent_channels: kernels Cz.
        size: n.
    Returns:
        Shape (Cz, C, n, n).
    """
    k = torch.arange(size, dtype=torch.float64)
    cosines = torch.cos(math.pi / size * torch.outer(k, k + 0.5)) * (2 - (k == 0).double()).sqrt()[:, None]
    order = (k[:, None] ** 2 + k**2).flatten().argsort(stable=True)
    modes = torch.einsum("ki,lj->klij", cosines, cosines).flatten(0, 1)[order] / size**2
    kernels = torch.einsum("mij,cd->mcdij", modes, torch.eye(channels, dtype=torch.float64)).flatten(0, 1)
    missing = max(latent_channels - len(kernels), 0)
    return F.pad(kernels, (0, 0, 0, 0, 0, 0, 0, missing))[:latent_channels].float()


class ParameterEmbedding(nn.Module):
    """silu(W p + c) of the standardised physical parameters; None where the network has none."""

    def __init__(self, parameters: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(parameters, width) if parameters else None  # season and hour, after them, are left out

    def forward(self, cond: Conditioning) -> Tensor | None:
        """Parameters (B, P) -> (B, E)."""
        if self.linear is None:
            return None
        if cond.parameters is None:
            raise ValueError("this autoencoder is conditioned on physical parameters and got none")
        return F.silu(self.linear(cond.parameters[:, : self.linear.in_features].to(self.linear.weight.dtype)))


class Encoder(nn.Module):
    """Fields to latents, (B, C, H, W) -> (B, Cz, H / f, W / f) with f = patch * 2^(levels - 1).

    Commutes with translation by f cells along periodic axes.

    Arguments:
        channels: fields C.
        latent_channels: Cz.
        boundary: boundary of each space axis.
        widths: channels of each level, finest first; every further level halves both axes.
        blocks: residual blocks per level.
        patch: factor of the space-to-depth stem.
        parameters: number of physical parameters P.
    Raises:
        ValueError: an axis is not divisible by f, or the parameters are missing.
    """

    shortcut: Tensor

    def __init__(
        self,
        channels: int,
        latent_channels: int,
        boundary: Sequence[Boundary],
        widths: Sequence[int] = (64,),
        blocks: int = 1,
        patch: int = 4,
        parameters: int = 0,
    ) -> None:
        super().__init__()
        embedding = widths[-1] if parameters else None
        self.patch, self.latent_channels = patch, latent_channels
        self.downsampling = patch * 2 ** (len(widths) - 1)
        kernels = block_modes(channels, latent_channels, self.downsampling)
        self.register_buffer("shortcut", kernels, persistent=False)
        self.embed = ParameterEmbedding(parameters, widths[-1])
        self.stem = Conv(channels * patch**2, widths[0], boundary)
        self.stages = nn.ModuleList(Stage(c, boundary, embedding, blocks) for c in widths)
        pairs = itertools.pairwise(widths)
        self.shrink = nn.ModuleList([nn.Identity(), *(nn.Conv2d(a, b, 2, stride=2) for a, b in pairs)])
        self.head = _zero(Conv(widths[-1], latent_channels, boundary))

    def forward(self, x: Tensor, cond: Conditioning) -> Tensor:
        """(B, C, H, W) -> (B, Cz, H / f, W / f)."""
        if any(n % self.downsampling for n in x.shape[-2:]):
            found = tuple(x.shape[-2:])
            raise ValueError(f"this encoder needs axes divisible by {self.downsampling}, found {found}")
        e = self.embed(cond)
        h = self.stem(F.pixel_unshuffle(x, self.patch))
        for shrink, stage in zip(self.shrink, self.stages, strict=True):
            h = stage(shrink(h), e)
        return F.conv2d(x, self.shortcut, stride=self.downsampling) + self.head(F.silu(h))


class Decoder(nn.Module):
    """Latents to fields, (B, Cz, H / f, W / f) -> (B, C, H, W): mirror and arguments of `Encoder`."""

    shortcut: Tensor

    def __init__(
        self,
        channels: int,
        latent_channels: int,
        boundary: Sequence[Boundary],
        widths: Sequence[int] = (64,),
        blocks: int = 1,
        patch: int = 4,
        parameters: int = 0,
    ) -> None:
        super().__init__()
        embedding = widths[-1] if parameters else None
        self.patch, self.downsampling = patch, patch * 2 ** (len(widths) - 1)
        kernels = self.downsampling**2 * block_modes(channels, latent_channels, self.downsampling)
        self.register_buffer("shortcut", kernels, persistent=False)
        self.embed = ParameterEmbedding(parameters, widths[-1])
        self.stem = Conv(latent_channels, widths[-1], boundary)
        self.stages = nn.ModuleList(Stage(c, boundary, embedding, blocks) for c in reversed(widths))
        pairs = zip(widths[:0:-1], widths[-2::-1], strict=True)
        self.grow = nn.ModuleList([nn.Identity(), *(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs)])
        self.head = _zero(Conv(widths[0], channels * patch**2, boundary))

    def forward(self, z: Tensor, cond: Conditioning) -> Tensor:
        """(B, Cz, H / f, W / f) -> (B, C, H, W)."""
        e = self.embed(cond)
        h = self.stem(z)
        for grow, stage in zip(self.grow, self.stages, strict=True):
            h = stage(grow(h), e)
        rest = F.pixel_shuffle(self.head(F.silu(h)), self.patch)
        return F.conv_transpose2d(z, self.shortcut, stride=self.downsampling) + rest


def _zero(layer: Conv) -> Conv:
    """The layer with weights and biases that start at zero."""
    nn.init.zeros_(layer.conv.weight)
    nn.init.zeros_(layer.conv.bias)  # type: ignore[arg-type]
    return layer
