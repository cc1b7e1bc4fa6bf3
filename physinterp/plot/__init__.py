"""Plots of forecasts and scores: each a function of xarray data that returns a matplotlib figure.

Colours are those of Okabe and Ito, and two more, that colour-blind readers can tell apart; the truth is black, the codec
alone grey. Lines and markers differ too.
"""

from physinterp.plot.curves import accuracy, error_budget, error_growth, pareto, rank_histogram
from physinterp.plot.maps import animation, panels, spread
from physinterp.plot.spectra import spectra
from physinterp.plot.style import png, save

__all__ = [
    "accuracy",
    "animation",
    "error_budget",
    "error_growth",
    "panels",
    "pareto",
    "png",
    "rank_histogram",
    "save",
    "spectra",
    "spread",
]
