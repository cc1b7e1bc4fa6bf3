"""Residual U-Net with modulation by s and by physical parameters."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physinterp.nn.layers import Conv, LevelEmbedding, Position, Stage, continued
from physinterp.types import Boundary, Conditioning


class UNet(nn.Module):
    """Residual U-Net on a 2-D grid; every level halves both axes and multiplies the width.

    The input and output pass through space-to-depth of factor `patch`, so the finest convolutions run on a grid
    `patch` times coarser with `patch`^2 times the channels: the same detail at a fraction of the cost.
    The output layer starts at zero. Periodic axes must be divisible by patch * 2^(levels - 1); others are `continued`.

    Arguments:
        in_channels: state channels C, plus the channels of the noisy input.
        out_channels: channels of the output.
        boundary: boundary of each space axis.
        widths: channels of each level, finest first.
        blocks: residual blocks per level, on the way down and again on the way up.
        patch: factor of the space-to-depth stem.
        parameters: number of physical parameters P.
        clean_channels: the first channels of the input that are a clean state; the weights of the others start at
            zero, so that a twin trained with zeros there is unchanged when noise enters.
        fixed: periodic axes along which the place matters all the same; see `Position`.
    Raises:
        ValueError: a periodic axis is not divisible as above.
    References: Ronneberger et al. 2015, arXiv:1505.04597; FiLM: Perez et al. 2018, arXiv:1709.07871.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        boundary: Sequence[Boundary],
        widths: Sequence[int] = (32, 64, 128),
        blocks: int = 1,
        patch: int = 1,
        parameters: int = 0,
        clean_channels: int | None = None,
        fixed: Sequence[bool] = (False, False),
    ) -> None:
        super().__init__()
        self.patch, self.multiple, self.boundary = patch, patch * 2 ** (len(widths) - 1), tuple(boundary)
        embedding = 4 * widths[0]
        self.embed = LevelEmbedding(embedding, parameters)
        self.stem = Conv(in_channels * patch**2, widths[0], boundary)
        self.position = Position(widths[0], boundary, fixed)
        if clean_channels is not None:
            with torch.no_grad():
                self.stem.conv.weight[:, clean_channels * patch**2 :] = 0

        def stage(c: int) -> Stage:
            return Stage(c, boundary, embedding, blocks)

        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(stage(c) for c in widths[:-1])
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairs)
        self.middle = stage(widths[-1])
        self.grow = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairs)
        self.up = nn.ModuleList(stage(c) for c in widths[:-1])
        self.head = Conv(widths[0], out_channels * patch**2, boundary)
        nn.init.zeros_(self.head.conv.weight)
        nn.init.zeros_(self.head.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, s: Tensor, cond: Conditioning) -> Tensor:
        """(B, Cin, H, W), (B,) -> (B, Cout, H, W)."""
        height, width = x.shape[-2:]
        x = continued(x, self.multiple, self.boundary)
        e = self.embed(s, cond)
        x = self.stem(F.pixel_unshuffle(x, self.patch))
        x = x + self.position(x.shape[-2:])
        skips = []
        for stage, shrink in zip(self.down, self.shrink, strict=True):
            skips.append(stage(x, e))
            x = shrink(skips[-1])
        x = self.middle(x, e)
        for stage, grow in zip(reversed(self.up), reversed(self.grow), strict=True):
            x = stage(grow(x) + skips.pop(), e)
        return F.pixel_shuffle(self.head(F.silu(x)), self.patch)[..., :height, :width]
