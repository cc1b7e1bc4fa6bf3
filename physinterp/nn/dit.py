"""Diffusion transformer on a grid with periodic axes and walls."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physinterp.nn.layers import LevelEmbedding, Position, continued
from physinterp.types import Boundary, Conditioning


def axial_turns(shape: Sequence[int], boundary: Sequence[Boundary], frequencies: int, like: Tensor) -> Tensor:
    r"""Rotary phases of the tokens of a grid, in turns.

        phi_k(i) = m_k i / n mod 1,   m_k geometric from 1/2 to n/2, rounded up to integers on a periodic axis

    Integer m_k make phi_k(i) - phi_k(j) a function of (i - j) mod n, so attention commutes exactly with
    translation across the wrap. On a wall axis the slowest phase turns by half over the axis and tells all
    distances apart.

    Arguments:
        shape: tokens (H, W) along each axis.
        boundary: boundary of each axis.
        frequencies: K, for each axis.
        like: a tensor with the device and dtype wanted; float32 at least.
    Returns:
        Shape (H W, 2 K), the K phases of the first axis before those of the second.
    References: Su et al. 2021, RoFormer, arXiv:2104.09864.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    turns = []
    for n, b in zip(shape, boundary, strict=True):
        m = [0.5 * n ** (k / max(frequencies - 1, 1)) for k in range(frequencies)]
        m = [float(math.ceil(q)) for q in m] if b == "periodic" else m
        i = torch.arange(n, device=like.device, dtype=dtype)
        turns.append(torch.remainder(torch.outer(i, torch.tensor(m, device=like.device, dtype=dtype)), n) / n)
    h, w = (len(t) for t in turns)
    return torch.cat([turns[0].repeat_interleave(w, dim=0), turns[1].repeat(h, 1)], dim=1)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turns the pairs (x_k, x_{k + D/2}) of (B, heads, N, D) by angles with cosine and sine (N, D/2)."""
    cos, sin = rotation
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Attention(nn.Module):
    """Multi-head attention; queries and keys are normalised (stable in bfloat16), then rotated."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm_q, self.norm_k = nn.RMSNorm(width // heads, eps=1e-6), nn.RMSNorm(width // heads, eps=1e-6)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """(B, N, D), cosine and sine (N, D / heads / 2) -> (B, N, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dtype = self.norm_q.weight.dtype
        q = rotate(self.norm_q(q.to(dtype)), rotation).to(v.dtype)
        k = rotate(self.norm_k(k.to(dtype)), rotation).to(v.dtype)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    r"""Transformer block with adaptive normalisation; the identity at the start.

        x <- x + g1 attention((1 + a1) norm(x) + b1),   x <- x + g2 mlp((1 + a2) norm(x) + b2)

    (a, b, g) are linear in the embedding of s and of the parameters and start at zero (adaLN-zero).
    """

    def __init__(self, width: int, heads: int, embedding: int, ratio: int = 4) -> None:
        super().__init__()
        self.modulation = _zero(nn.Linear(embedding, 6 * width))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attention = Attention(width, heads)
        hidden = ratio * width
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU("tanh"), nn.Linear(hidden, width))

    def forward(self, x: Tensor, e: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """(B, N, D), (B, E) -> (B, N, D)."""
        a1, b1, g1, a2, b2, g2 = self.modulation(e)[:, None].chunk(6, dim=-1)
        x = x + g1 * self.attention(torch.addcmul(b1, 1 + a1, self.norm(x)), rotation)
        return x + g2 * self.mlp(torch.addcmul(b2, 1 + a2, self.norm(x)))


class DiT(nn.Module):
    """Diffusion transformer on a 2-D grid of any aspect ratio.

    One token per patch x patch cells. Along a periodic axis that is not `fixed` the network commutes with
    translation by whole patches; along the others it also sees where it stands. The output layer starts at zero. Periodic
    axes must be divisible by `patch`, others are `continued`; the cost of attention grows with the square of H W / patch^2.

    Arguments:
        in_channels: state channels C, plus the channels of the noisy input.
        out_channels: channels of the output.
        boundary: boundary of each space axis.
        fixed: periodic axes along which the place matters all the same; see `Position`.
        width: channels of a token, a multiple of 4 * heads.
        depth: number of blocks.
        heads: attention heads.
        patch: cells per token along each axis.
        parameters: number of physical parameters P.
        clean_channels: the first channels of the input that are a clean state; the weights of the others
            start at zero, so that a twin trained with zeros there is unchanged when noise enters.
    Raises:
        ValueError: a periodic axis is not divisible by `patch`, or the width not by 4 * heads.
    References: Peebles & Xie 2023, arXiv:2212.09748; rotary positions: Su et al. 2021, arXiv:2104.09864;
        normalised queries and keys: Dehghani et al. 2023, arXiv:2302.05442.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        boundary: Sequence[Boundary],
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        patch: int = 1,
        parameters: int = 0,
        clean_channels: int | None = None,
        fixed: Sequence[bool] = (False, False),
    ) -> None:
        super().__init__()
        if width % (4 * heads):
            raise ValueError(f"a DiT needs a width that is a multiple of 4 * heads = {4 * heads}, found {width}")
        self.boundary, self.patch, self.frequencies = tuple(boundary), patch, width // heads // 4
        self.embed = LevelEmbedding(width, parameters)
        self.stem = nn.Linear(in_channels * patch**2, width)
        if clean_channels is not None:
            with torch.no_grad():
                self.stem.weight[:, clean_channels * patch**2 :] = 0
        self.position = Position(width, boundary, fixed)
        self.blocks = nn.ModuleList(Block(width, heads, width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = _zero(nn.Linear(width, 2 * width))
        self.head = _zero(nn.Linear(width, out_channels * patch**2))

    def forward(self, x: Tensor, s: Tensor, cond: Conditioning) -> Tensor:
        """(B, Cin, H, W), (B,) -> (B, Cout, H, W)."""
        height, width = x.shape[-2:]
        x = continued(x, self.patch, self.boundary)
        e = self.embed(s, cond)
        x = F.pixel_unshuffle(x, self.patch)
        shape = x.shape[-2:]
        angle = 2 * math.pi * axial_turns(shape, self.boundary, self.frequencies, like=x)
        rotation = angle.cos(), angle.sin()
        x = self.stem(x.flatten(2).transpose(1, 2)) + self.position(shape).flatten(1).T
        for block in self.blocks:
            x = block(x, e, rotation)
        a, b = self.modulation(e)[:, None].chunk(2, dim=-1)
        x = self.head(torch.addcmul(b, 1 + a, self.norm(x)))
        return F.pixel_shuffle(x.transpose(1, 2).unflatten(2, shape), self.patch)[..., :height, :width]


def _zero(layer: nn.Linear) -> nn.Linear:
    """The layer with weights and biases that start at zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
