"""Codecs: a saturating autoencoder with standardised latents, and the identity (pixel space)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physinterp.errors import InputError
from physinterp.nn.dcae import Decoder, Encoder
from physinterp.types import Conditioning


def saturate(z: Tensor, bound: float = 5.0) -> Tensor:
    r"""Squashes smoothly into (-B, B), in float32 at least.

        saturate(z) = z / sqrt(1 + z^2 / B^2),   |saturate(z)| < B,   slope 1 at 0

    Beyond about 10^3 B the result rounds to B itself in float32.

    Arguments:
        z: any shape.
        bound: B > 0.
    Returns:
        The shape of z.
    """
    t = z.to(torch.promote_types(z.dtype, torch.float32)) / bound
    return bound * (t / (1 + t * t).sqrt())


class Identity(nn.Module):
    """The codec of pixel space: encode and decode return their input.

    Arguments:
        channels: C.
    """

    downsampling = 1

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.latent_channels = channels

    def encode(self, x: Tensor, cond: Conditioning) -> Tensor:
        """(B, C, *S) -> the same tensor."""
        return x

    def decode(self, z: Tensor, cond: Conditioning) -> Tensor:
        """(B, C, *S) -> the same tensor."""
        return z

    def latent_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """*S -> *S."""
        return tuple(shape)


class Autoencoder(nn.Module):
    r"""Autoencoder with saturated, standardised latents.

        encode(x) = (saturate(encoder(x)) - m) / d,   decode(z) = decoder(m + d z)

    m and d are the mean and standard deviation of each latent channel on the training split, 0 and 1 until
    `fit_standardisation` is called, and part of the state_dict. Call it after training: more training would
    leave them stale.

    Arguments:
        encoder, decoder: a pair of the same channels, widths and patch.
        bound: B of `saturate`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: Encoder, decoder: Decoder, bound: float = 5.0) -> None:
        super().__init__()
        self.encoder, self.decoder, self.bound = encoder, decoder, bound
        self.latent_channels, self.downsampling = encoder.latent_channels, encoder.downsampling
        self.register_buffer("mean", torch.zeros(encoder.latent_channels, 1, 1))
        self.register_buffer("std", torch.ones(encoder.latent_channels, 1, 1))

    def encode(self, x: Tensor, cond: Conditioning) -> Tensor:
        """(B, C, H, W) -> (B, Cz, H / f, W / f), f the down-sampling."""
        return (saturate(self.encoder(x, cond), self.bound) - self.mean) / self.std

    def decode(self, z: Tensor, cond: Conditioning) -> Tensor:
        """(B, Cz, H / f, W / f) -> (B, C, H, W)."""
        return self.decoder(self.mean + self.std * z, cond)

    def loss(self, x: Tensor, cond: Conditioning) -> Tensor:
        """Mean squared error of the reconstruction of normalised fields (B, C, H, W), a scalar."""
        return F.mse_loss(self.decoder(saturate(self.encoder(x, cond), self.bound), cond), x)

    def latent_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """(H, W) -> (H / f, W / f).

        Raises:
            InputError: an axis is not divisible by f.
        """
        if any(n % self.downsampling for n in shape):
            raise InputError(
                f"this autoencoder needs axes divisible by {self.downsampling}, found {tuple(shape)}: "
                "choose another patch or fewer widths"
            )
        return tuple(n // self.downsampling for n in shape)

    @torch.no_grad()
    def fit_standardisation(self, batches: Iterable[tuple[Tensor, Conditioning]], floor: float = 1e-3) -> None:
        """Sets the mean and standard deviation of each latent channel, accumulated in float64.

        Arguments:
            batches: pairs (x (B, C, H, W), conditioning) that cover the training split.
            floor: least standard deviation of a channel relative to the largest, for constant channels.
        Raises:
            InputError: there are no batches.
        """
        count, total, square = 0, torch.zeros(()), torch.zeros(())
        for x, cond in batches:
            z = saturate(self.encoder(x, cond), self.bound).transpose(0, 1).flatten(1).double()
            count += z.shape[1]
            total, square = total.to(z) + z.sum(1), square.to(z) + z.square().sum(1)
        if not count:
            raise InputError("the latents cannot be standardised: expected at least one batch, found none")
        mean = total / count
        std = (square / count - mean.square()).clamp(min=0).sqrt()
        self.mean.copy_(mean[:, None, None])
        self.std.copy_(std.clamp(min=floor * max(float(std.max()), floor))[:, None, None])
