"""Layers shared by the networks: convolution with the padding of each axis, embedding of s, modulation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physinterp.types import Boundary, Conditioning


class Conv(nn.Module):
    """3 x 3 (or k x k) convolution that pads each axis by its boundary.

    A periodic axis is wrapped; a wall or a pole is padded with zeros, which tells the network where it is.

    Arguments:
        in_channels, out_channels: channels, C -> C'.
        boundary: one of "periodic", "wall", "pole" for each of the two space axes.
        kernel: odd width of the kernel.
    """

    def __init__(self, in_channels: int, out_channels: int, boundary: Sequence[Boundary], kernel: int = 3) -> None:
        super().__init__()
        p = kernel // 2
        wrap = [p if b == "periodic" else 0 for b in boundary]
        self.wrap = (wrap[1], wrap[1], wrap[0], wrap[0])
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=(p - wrap[0], p - wrap[1]))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W)."""
        return self.conv(F.pad(x, self.wrap, mode="circular") if any(self.wrap) else x)


def continued(x: Tensor, multiple: int, boundary: Sequence[Boundary]) -> Tensor:
    """(B, C, H, W) with walls moved out to the next multiple, by repeating the values at them; for networks that coarsen.

    Raises:
        ValueError: a periodic axis is no multiple.
    """
    more = [-n % multiple for n in x.shape[-2:]]
    if any(n and b == "periodic" for n, b in zip(more, boundary, strict=True)):
        raise ValueError(f"this network needs periodic axes divisible by {multiple}, found {tuple(x.shape[-2:])}")
    return F.pad(x, (0, more[1], 0, more[0]), mode="replicate") if any(more) else x


class LevelEmbedding(nn.Module):
    r"""Embedding of the interpolant time s and of the physical parameters.

        e = MLP( W_s [sin(w_k s), 1 - cos(w_k s)]_k + W_p p + c ),   W_s = 0 at the start

    The features of s vanish at s = 0 and W_s starts at zero, so a network trained at s = 0 alone (the deterministic
    twin) gives the same output at every s: it can be loaded unchanged as the start of a network of s.

    Arguments:
        width: size of the embedding, E.
        parameters: number of physical parameters, P.
        frequencies: number of frequencies w_k = pi k / 2.
    """

    omega: Tensor

    def __init__(self, width: int, parameters: int = 0, frequencies: int = 8) -> None:
        super().__init__()
        self.register_buffer("omega", math.pi / 2 * torch.arange(1, frequencies + 1), persistent=False)
        self.level = nn.Linear(2 * frequencies, width, bias=False)
        nn.init.zeros_(self.level.weight)
        self.parameters_in = nn.Linear(parameters, width, bias=False) if parameters else None
        self.bias = nn.Parameter(torch.zeros(width))
        self.out = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, s: Tensor, cond: Conditioning) -> Tensor:
        """s (B,), parameters (B, P) -> (B, E)."""
        phase = s[:, None].to(self.level.weight.dtype) * self.omega
        e = self.level(torch.cat([phase.sin(), 1 - phase.cos()], dim=1)) + self.bias
        if self.parameters_in is not None:
            if cond.parameters is None:
                raise ValueError("this network is conditioned on physical parameters and got none")
            e = e + self.parameters_in(cond.parameters.to(e.dtype))
        return self.out(e)


class Position(nn.Module):
    r"""Features of the place, linear in waves along every axis on which the place matters.

        cos(pi k y), y = (i + 1/2) / n between walls or poles;   sin, cos(2 pi k i / n) on a fixed periodic axis;   k = 1..K

    On axes with walls the distance to the wall and the spacing of the nodes matter; on a periodic axis the place matters
    where the equations vary along it, as with a steady forcing. Other axes are left out, so translation along them
    still commutes with the network.

    Arguments:
        channels: C.
        boundary: boundary of each space axis.
        fixed: whether the place matters on an axis though it is periodic.
        waves: K.
    """

    nothing: Tensor

    def __init__(self, channels: int, boundary: Sequence[Boundary], fixed: Sequence[bool], waves: int = 8) -> None:
        super().__init__()
        self.axes = tuple((b == "periodic", f or b != "periodic") for b, f in zip(boundary, fixed, strict=True))
        self.waves = waves
        count = sum(waves * (2 if wrapped else 1) for wrapped, matters in self.axes if matters)
        self.linear = nn.Linear(count, channels, bias=False) if count else None
        self.register_buffer("nothing", torch.zeros(channels, 1, 1), persistent=False)

    def forward(self, shape: Sequence[int]) -> Tensor:
        """Features (C, H, W) of a grid of a shape (H, W); zeros (C, 1, 1) where the place matters on no axis."""
        if self.linear is None:
            return self.nothing
        weight, features = self.linear.weight, []
        k = math.pi * torch.arange(1, self.waves + 1, device=weight.device, dtype=weight.dtype)
        for axis, (wrapped, matters) in enumerate(self.axes):
            if matters:
                i = torch.arange(shape[axis], device=weight.device, dtype=weight.dtype)
                phase = torch.outer((i if wrapped else i + 0.5) / shape[axis], 2 * k if wrapped else k)
                waves = torch.cat([phase.cos(), phase.sin()], 1) if wrapped else phase.cos()
                features.append(waves.unsqueeze(1 - axis).expand(*shape, -1))
        return self.linear(torch.cat(features, dim=-1)).movedim(-1, 0)


class ResidualBlock(nn.Module):
    r"""x + conv( silu( (1 + a) norm(conv(silu(norm x))) + b ) ) with (a, b) linear in the embedding (FiLM).

    The last convolution starts at zero, so the block starts as the identity.
    """

    def __init__(self, channels: int, boundary: Sequence[Boundary], embedding: int | None) -> None:
        super().__init__()
        groups = math.gcd(8, channels)
        self.norm1, self.norm2 = nn.GroupNorm(groups, channels), nn.GroupNorm(groups, channels)
        self.conv1, self.conv2 = Conv(channels, channels, boundary), Conv(channels, channels, boundary)
        self.film = nn.Linear(embedding, 2 * channels) if embedding else None
        nn.init.zeros_(self.conv2.conv.weight)
        nn.init.zeros_(self.conv2.conv.bias)  # type: ignore[arg-type]
        if self.film is not None:
            nn.init.zeros_(self.film.weight)
            nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, e: Tensor | None = None) -> Tensor:
        """(B, C, H, W), (B, E) -> (B, C, H, W)."""
        h = self.norm2(self.conv1(F.silu(self.norm1(x))))
        if self.film is not None:
            if e is None:
                raise ValueError("this block is modulated by an embedding and got none")
            a, b = self.film(e)[:, :, None, None].chunk(2, dim=1)
            h = torch.addcmul(b, 1 + a, h)
        return x + self.conv2(F.silu(h))


class Stage(nn.Module):
    """The residual blocks of one level."""

    def __init__(self, channels: int, boundary: Sequence[Boundary], embedding: int | None, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(channels, boundary, embedding) for _ in range(blocks))

    def forward(self, x: Tensor, e: Tensor | None = None) -> Tensor:
        """(B, C, H, W), (B, E) -> (B, C, H, W)."""
        for block in self.blocks:
            x = block(x, e)
        return x
