r"""What is measured of a trained model on data it has not seen: how far to trust its forecast, and what is left.

A network's forecast of x1 has errors of its own at every scale and place, also where the truth has next to nothing: noise
that a rollout feeds back. `Shrinkage` gives each pattern of it the weight that it deserves, which gives the mean mu, and
`Covariance` is that of the residual x1 - mu which remains. For a fully observed, deterministic system the next state is
nearly a point: this is then the error of the model and of the codec, and what an ensemble has to represent. It is coloured
(errors sit at certain scales and places), and white noise of the same variance puts energy where the truth has none.

After the regression the residual is not correlated with the mean, pattern by pattern, so their variances add to that of the
truth: on the pairs measured, one step of an ensemble, mean plus noise of this covariance, has the variance of the truth at
every wavenumber, summed over channels and the other axes (where no weight meets a bound). Single channels and later steps
are close to it; see `docs/samplers.md`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

PATTERNS = 32  # most that are kept per wavenumber
AT_ONCE = 8  # wavenumbers whose matrices are in memory


class Patterns(nn.Module):
    r"""An operator that acts on patterns over channels and the non-periodic axes, for each wavenumber of the periodic ones:

        R = sum_k F_k* ( U_k (L_k - r_k) U_k* + r_k I ) F_k

    F_k is the unitary Fourier transform along the periodic axes, U_k are patterns (orthonormal columns), L_k their values
    and r_k the value of everything else: fields are taken as homogeneous along periodic axes. It starts as R = 1.

    Arguments:
        channels, shape: of the state (C, *S).
        periodic: periodic axes of the state as negative numbers, ascending; they may be none.
        rank: most patterns per wavenumber; with C times the points of the other axes of them R is exact.
    """

    vectors: Tensor
    values: Tensor
    rest: Tensor

    def __init__(self, channels: int, shape: Sequence[int], periodic: Sequence[int], rank: int = PATTERNS) -> None:
        super().__init__()
        self.periodic = tuple(periodic)
        lengths = [shape[a] for a in self.periodic]
        count = math.prod([*lengths[:-1], lengths[-1] // 2 + 1]) if lengths else 1
        size = channels * math.prod(shape) // math.prod(lengths)
        rank = min(rank, size)
        self.register_buffer("vectors", torch.zeros(count, size, rank, 2))  # real and imaginary part
        self.register_buffer("values", torch.ones(count, rank))
        self.register_buffer("rest", torch.ones(count))

    def apply(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:  # type: ignore[override]
        """f(R) x, with f elementwise on values; (B, C, *S) -> (B, C, *S)."""
        y, back = transform(x, self.periodic)
        rest = f(self.rest)[:, None, None]
        gain = f(self.values)[:, None, :] - rest
        vectors = torch.view_as_complex(self.vectors).to(y.dtype)
        inside = y @ vectors.conj()  # U* y, as rows
        return back((rest * y).baddbmm_(gain * inside, vectors.mT))

    def leading(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Leading eigenvectors of the second moments of states (N, C, *S): (K, D, rank) complex, their eigenvalues
        (K, rank) ascending, and the mean of the eigenvalues left out (K,). Of fewer states than `rank`, some are 0."""
        f, _ = transform(x, self.periodic)
        parts = [self._leading(part.to(torch.complex128)) for part in f.split(AT_ONCE)]
        vectors, values, rest = (torch.cat(found) for found in zip(*parts, strict=True))
        return vectors, values, rest

    def _leading(self, f: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rank, (count, size) = self.values.shape[-1], f.shape[1:]
        if count < size:  # all but `count` eigenvalues are 0, and the matrix may be too large to write down
            _, s, v = torch.linalg.svd(f, full_matrices=False)
            missing = max(rank - count, 0), 0
            values, vectors = (nn.functional.pad(a.flip(-1), missing) for a in (s.square() / count, v.mT))
        else:
            values, vectors = torch.linalg.eigh(f.mT @ f.conj() / count)
        values = values.clamp(min=0)
        left_out = values[:, :-rank].sum(-1) / max(size - rank, 1)
        return vectors[..., -rank:].clone(), values[:, -rank:], left_out

    def keep(self, vectors: Tensor, values: Tensor, rest: Tensor) -> None:
        """Set U, L and r."""
        self.vectors.copy_(torch.view_as_real(vectors))
        self.values.copy_(values)
        self.rest.copy_(rest)


class Covariance(Patterns):
    r"""Covariance C = sigma R sigma: sigma is the standard deviation per channel, patterns are the leading eigenvectors
    (empirical orthogonal functions) of R. It starts as white noise, sigma = 1 and R = 1; `fit` measures it.

    Arguments:
        channels, shape, periodic, rank: see `Patterns`.
    """

    sigma: Tensor

    def __init__(self, channels: int, shape: Sequence[int], periodic: Sequence[int], rank: int = PATTERNS) -> None:
        super().__init__(channels, shape, periodic, rank)
        self.register_buffer("sigma", torch.ones(channels, 1, 1))

    @torch.no_grad()
    def fit(self, residuals: Tensor, sigma: Tensor | None = None) -> None:
        """Set U, L and r to the second moments of residuals (N, C, *S); sigma too, unless it is given (C, 1, 1)."""
        if sigma is None:
            sigma = residuals.square().mean((0, 2, 3), dtype=torch.float64).sqrt().clamp(min=1e-12)[:, None, None]
        self.sigma.copy_(sigma)
        self.keep(*self.leading(residuals / sigma.to(residuals)))

    def colour(self, x: Tensor) -> Tensor:
        """C^(1/2) x: noise of covariance C from white noise x (B, C, *S)."""
        return self.sigma * self.apply(torch.sqrt, x)


class Shrinkage(Patterns):
    r"""The part of a forecast to be trusted, pattern by pattern (a Wiener filter on empirical orthogonal functions):

        mu -> sum_k F_k* ( U_k g_k U_k* + r_k (1 - U_k U_k*) ) F_k mu,   g = Re <x1 mu*> / <|mu|^2>, within [0, 1]

    U_k are the leading patterns of the states themselves, g regresses each pattern of the truth x1 on the same one of the
    forecast, and r does so for all other patterns together. Where the forecast is right g is 1; where the network's noise
    exceeds what the truth has, g falls to 0. It starts as g = 1; `fit` measures U on training data and g on others.

    Arguments:
        channels, shape, periodic, rank: see `Patterns`.
    """

    @torch.no_grad()
    def fit(self, states: Tensor, forecasts: Tensor, truths: Tensor) -> None:
        """Set U to the patterns of states (M, C, *S), g and r by forecasts and truths of pairs (N, C, *S) not trained on."""
        vectors, _, _ = self.leading(states)
        y, x = (transform(u, self.periodic)[0] for u in (forecasts, truths))
        parts = zip(*(u.split(AT_ONCE) for u in (y, x, vectors)), strict=True)
        gains, rest = zip(*(self._weights(*(u.to(torch.complex128) for u in part)) for part in parts), strict=True)
        self.keep(vectors, torch.cat(gains), torch.cat(rest))

    @staticmethod
    def _weights(y: Tensor, x: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """g (K, rank) and r (K,) of forecasts and truths (K, N, D)."""
        inside = [u @ vectors.conj() for u in (y, x)]
        outside = [(u - i @ vectors.mT).flatten(1)[..., None] for u, i in zip((y, x), inside, strict=True)]
        all_kept = vectors.shape[1] == vectors.shape[2]
        rest = _regression(*outside)[:, 0]
        return _regression(*inside), torch.ones_like(rest) if all_kept else rest

    def forward(self, forecast: Tensor) -> Tensor:
        """(B, C, *S) -> the same shape."""
        return self.apply(torch.clone, forecast)


def _regression(y: Tensor, x: Tensor) -> Tensor:
    """Re <x y*> / <|y|^2> over the rows of (K, N, D), within [0, 1]; shape (K, D)."""
    both, power = (x * y.conj()).real.sum(1), y.abs().square().sum(1)
    return (both / power.clamp(min=1e-300)).clamp(0, 1)


class White:
    """The residual whose covariance is that of the interpolant's noise: R = 1, a `types.Residual`."""

    def apply(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """f(1) x."""
        return f(x.new_ones(())) * x


def transform(x: Tensor, periodic: tuple[int, ...]) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Unitary Fourier transform along the periodic axes, (B, C, *S) -> (K, B, D) complex, and the way back."""
    if not periodic:
        return torch.complex(x, torch.zeros_like(x)).reshape(1, len(x), -1), lambda z: z.real.reshape(x.shape)
    last = tuple(range(-len(periodic), 0))
    x = x.movedim(periodic, last)
    y = torch.fft.rfftn(x, dim=last, norm="ortho")
    count = math.prod(y.shape[last[0] :])

    def back(z: Tensor) -> Tensor:
        y_of_z = z.reshape(count, -1).t().contiguous().view(y.shape)  # as matrices: their transposition is the fast one
        return torch.fft.irfftn(y_of_z, s=x.shape[last[0] :], dim=last, norm="ortho").movedim(last, periodic)

    return y.reshape(-1, count).t().contiguous().view(count, len(x), -1), back
