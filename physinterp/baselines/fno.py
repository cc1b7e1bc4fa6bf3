"""The Fourier neural operator, from the `neuraloperator` package."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from physinterp.types import Boundary, Conditioning


class FNOBackbone(nn.Module):
    """FNO of the clean state alone: the second input and s are not used, so only `Deterministic` can train it.

    Axes that are not periodic are padded by `padding` of their length, since the FNO treats every axis as periodic.

    Arguments:
        in_channels: channels of [x0, y]; the first half is used.
        out_channels: channels of the output.
        boundary: boundary of each space axis.
        modes: Fourier modes kept along each axis.
        width: hidden channels.
        layers: number of Fourier layers.
        padding: fraction of a non-periodic axis that is added on each side.
        parameters: number of physical parameters, appended as constant channels.
    References: Li et al. 2021, arXiv:2010.08895; Kossaifi et al. 2024, arXiv:2412.10354 (the library).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        boundary: Sequence[Boundary],
        modes: Sequence[int] = (16, 16),
        width: int = 32,
        layers: int = 4,
        padding: float = 0.125,
        parameters: int = 0,
    ) -> None:
        super().__init__()
        from neuralop.models import FNO  # heavy: imported where it is built

        self.channels, self.parameters_in = in_channels // 2, parameters
        pad = [0.0 if b == "periodic" else padding for b in boundary]
        self.fno = FNO(
            n_modes=tuple(modes),
            in_channels=self.channels + parameters,
            out_channels=out_channels,
            hidden_channels=width,
            n_layers=layers,
            domain_padding=pad if any(pad) else None,
        )
        # the library puts its constructor arguments among the weights; ours hold tensors alone
        self.register_state_dict_post_hook(lambda _, state, *__: state.pop("_metadata", None) and None)

    def forward(self, x: Tensor, s: Tensor, cond: Conditioning) -> Tensor:
        """(B, 2C, H, W) -> (B, C', H, W)."""
        x = x[:, : self.channels]
        if self.parameters_in:
            if cond.parameters is None:
                raise ValueError("this network is conditioned on physical parameters and got none")
            constant = cond.parameters.to(x.dtype)[:, :, None, None].expand(-1, -1, *x.shape[-2:])
            x = torch.cat([x, constant], dim=1)
        return self.fno(x)
