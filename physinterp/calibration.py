r"""Calibration of the spread: the residual covariance C of x1 given x0 as an operator.

For a fully observed, deterministic system the next state is nearly a point: C is then the error of the model and of the
codec, and that is what an ensemble has to represent. It is coloured (errors sit at certain scales and places), and white
noise of the same variance puts energy where the truth has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

EIGENVECTORS = 16  # most eigenvectors kept per wavenumber


class Covariance(nn.Module):
    r"""Covariance between channels and along the other axes, one matrix per wavenumber of the periodic axes.

        C = sigma R sigma,   R = sum_k F_k* ( U_k (L_k - r_k) U_k* + r_k I ) F_k

    sigma is the standard deviation per channel, F_k the unitary Fourier transform along the periodic axes, U_k the leading
    eigenvectors (empirical orthogonal functions) over channels and the other axes, L_k their eigenvalues and r_k
    the mean of the eigenvalues left out: the field is taken as homogeneous along its periodic axes. Functions of R
    act on L and r. It starts as white noise, sigma = 1 and R = 1; `fit` measures it.

    Arguments:
        channels, shape: of the state (C, *S).
        periodic: periodic axes of the state as negative numbers, ascending; they may be none.
        rank: most eigenvectors per wavenumber; with C times the points of the other axes of them R is exact.
    """

    sigma: Tensor
    vectors: Tensor
    values: Tensor
    rest: Tensor

    def __init__(self, channels: int, shape: Sequence[int], periodic: Sequence[int], rank: int = EIGENVECTORS) -> None:
        super().__init__()
        self.periodic = tuple(periodic)
        lengths = [shape[a] for a in self.periodic]
        count = math.prod([*lengths[:-1], lengths[-1] // 2 + 1]) if lengths else 1
        size = channels * math.prod(shape) // math.prod(lengths)
        rank = min(rank, size)
        self.register_buffer("sigma", torch.ones(channels, 1, 1))
        self.register_buffer("vectors", torch.zeros(count, size, rank, 2))  # real and imaginary part
        self.register_buffer("values", torch.ones(count, rank))
        self.register_buffer("rest", torch.ones(count))

    @torch.no_grad()
    def fit(self, residuals: Tensor, sigma: Tensor | None = None) -> None:
        """Set U, L and r to the second moments of residuals (N, C, *S); sigma too, unless it is given (C, 1, 1)."""
        residuals = residuals.double()
        if sigma is None:
            sigma = residuals.square().mean((0, 2, 3)).sqrt().clamp(min=1e-12)[:, None, None]
        f, _ = transform(residuals / sigma, self.periodic)
        rank, (count, size) = self.values.shape[-1], f.shape[1:]
        if rank <= count < size:  # all but `count` eigenvalues are 0, and the matrix may be too large to write down
            _, s, v = torch.linalg.svd(f, full_matrices=False)
            values, vectors = s.square().flip(-1) / count, v.mT.flip(-1)
        else:
            values, vectors = torch.linalg.eigh(f.mT @ f.conj() / count)
        values = values.clamp(min=0)
        left_out = values[:, :-rank].sum(-1) / max(size - rank, 1)
        self.sigma.copy_(sigma)
        self.vectors.copy_(torch.view_as_real(vectors[..., -rank:]))
        self.values.copy_(values[:, -rank:])
        self.rest.copy_(left_out)

    def apply(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:  # type: ignore[override]
        """f(R) x, with f elementwise on eigenvalues; (B, C, *S) -> (B, C, *S)."""
        y, back = transform(x, self.periodic)
        rest = f(self.rest)[:, None, None]
        gain = f(self.values)[:, None, :] - rest
        vectors = torch.view_as_complex(self.vectors).to(y.dtype)
        inside = y @ vectors.conj()  # U* y, as rows
        return back((rest * y).baddbmm_(gain * inside, vectors.mT))

    def colour(self, x: Tensor) -> Tensor:
        """C^(1/2) x: noise of covariance C from white noise x (B, C, *S)."""
        return self.sigma * self.apply(torch.sqrt, x)


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
