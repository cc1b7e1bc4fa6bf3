"""Imported for what it does: it settles which kernels MKL uses before two threads can ask at once.

MKL chooses the kernel of a vector function, such as `sqrt`, when it is first called. If the threads of one operation make
that call together, one of them may be given a kernel of low accuracy for its part of the array, that once: relative errors
of 6e-5 in float32, and numbers that the next run does not repeat (https://github.com/pytorch/pytorch/issues/188792). So each
function is called here once, by one thread.
"""

from __future__ import annotations

import torch

_FUNCTIONS = (
    *(torch.acos, torch.asin, torch.atan, torch.cos, torch.sin, torch.tan, torch.tanh),
    *(torch.exp, torch.expm1, torch.log, torch.log10, torch.log1p, torch.log2, torch.sqrt),
    *(torch.erf, torch.erfc, torch.erfinv, torch.lgamma),
)

for _dtype in (torch.float32, torch.float64):
    for _function in _FUNCTIONS:
        _function(torch.full((1,), 0.5, dtype=_dtype))
