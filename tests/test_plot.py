"""The plots: each kind from the folder of the results alone, what they show, and what cannot be drawn."""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Callable

import matplotlib
import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from artificial import LEADS, ROWS, SYSTEM
from matplotlib.animation import Animation
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from toy import KOLMOGOROV, RBC, dataset

from physinterp import budget, plot
from physinterp.errors import InputError
from physinterp.evaluate import compare
from physinterp.plot import style
from physinterp.results import PLOTS, Choice, Results
from physinterp.system import load_system
from physinterp.table import rows, to_xarray


@pytest.fixture(scope="module")
def found(artificial_results) -> Results:
    """The results as another process finds them."""
    return Results.open(artificial_results)


@pytest.fixture(scope="module")
def drawn(found) -> Callable[[str], Figure]:
    """Each kind once."""
    return functools.cache(lambda kind: found.draw(kind, found.choice()))


def picture(figure: Figure) -> np.ndarray:
    return matplotlib.image.imread(io.BytesIO(plot.png(figure)))[..., :3]


@pytest.mark.parametrize("kind", [k for k in PLOTS if k != "animation"])
def test_every_kind_is_a_picture_of_something(drawn, kind):
    figure = drawn(kind)
    assert isinstance(figure, Figure) and not plt.get_fignums()  # nothing is left behind in a notebook
    image = picture(figure)
    assert min(image.shape[:2]) > 200 and image.std() > 0.03
    assert len(np.unique((image * 255).astype(int) @ [1, 256, 65536])) > 20


def test_the_animation_has_a_frame_per_lead(found, tmp_path, monkeypatch):
    monkeypatch.setattr(style, "RESOLUTION", 50)
    moving = found.draw("animation", found.choice())
    assert isinstance(moving, Animation)
    plot.save(moving, tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as image:
        assert image.format == "GIF" and image.n_frames == LEADS
        frames = []
        for k in range(LEADS):
            image.seek(k)
            frames.append(np.asarray(image.convert("RGB"), dtype=float))
    assert all(np.abs(a - b).mean() > 0.1 for a, b in itertools.pairwise(frames))
    for end in (0.0, 1.0):  # the colour bar of the error keeps its ends
        colour = 255 * np.array(matplotlib.colormaps["PuOr_r"](end)[:3])
        assert np.abs(frames[0] - colour).max(-1).min() < 10
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_format_is_that_of_the_ending(drawn, tmp_path, suffix):
    plot.save(drawn("accuracy"), tmp_path / f"a.{suffix}")
    start = (tmp_path / f"a.{suffix}").read_bytes()[:8]
    assert start.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix])


KINDS = {  # how readers without one kind of cone, or with all, see linear RGB (Machado, Oliveira and Fernandes 2009)
    "all": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def seen(colour: str, kind: str) -> np.ndarray:
    """CIE Lab of a colour."""
    c = np.array(to_rgb(colour))
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(KINDS[kind]) @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    f = np.cbrt(np.maximum(xyz / [0.9505, 1.0, 1.089], 1e-3))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("kind", KINDS)
def test_colour_blind_readers_can_tell_the_colours_apart(kind):
    colours = (*style.PALETTE, style.GREY, "black")
    assert min(np.linalg.norm(seen(a, kind) - seen(b, kind)) for a, b in itertools.combinations(colours, 2)) > 12
    parts = style.PARTS
    assert min(np.linalg.norm(seen(a, kind) - seen(b, kind)) for a, b in itertools.combinations(parts, 2)) > 12


def test_methods_have_the_same_colour_in_every_plot_and_can_be_told_apart(drawn):
    look = style.styles([*ROWS, "codec/dcae"])
    for mark in ("linestyle", "marker"):
        many = style.styles([str(i) for i in range(40)], mark)
        assert len({(v["color"], v[mark]) for v in many.values()}) == 40
    for kind in ("error", "crps", "spectra", "accuracy", "pareto"):
        axes = drawn(kind).axes
        lines = {line.get_label(): line for ax in axes for line in ax.get_lines()}
        lines |= {c.get_label(): c[0] for ax in axes for c in ax.containers}  # points with error bars
        for name in look:  # the codec alone too: the floor of every error
            assert to_rgb(lines[style.name_of(name)].get_color()) == to_rgb(look[name]["color"]), (kind, name)


def test_the_labels_have_units():
    card = RBC.model_copy(update={"fields": (RBC.fields[0].model_copy(update={"units": "m s-2"}),), "time_unit": "h"})
    assert style.label(card, "buoyancy") == "buoyancy [m s-2]" and style.lead_label(card) == "lead time [h]"
    assert style.label(RBC, "velocity_x") == "velocity x" and style.lead_label(RBC) == "lead time"  # dimensionless
    assert style.lead_text(card, 6.0) == "lead 6 h" and style.lead_text(RBC, 2.5) == "lead 2.5"
    assert style.label(RBC, "mean") == "mean of the headline fields" and style.label(KOLMOGOROV, "mean") == "vorticity"


def test_colour_scales():
    signed, positive = xr.DataArray([-1.0, 3.0]), xr.DataArray([2.0, 3.0])
    assert style.scale(signed) == {"cmap": "RdBu_r", "vmin": -3.0, "vmax": 3.0}
    assert style.scale(positive) == {"cmap": "inferno", "vmin": 2.0, "vmax": 3.0}
    assert style.error_scale(0.0)["vmax"] == 1.0 and style.error_scale(2.0)["vmin"] == -2.0


@pytest.mark.parametrize("system", [SYSTEM, KOLMOGOROV], ids=lambda s: s.name)
def test_maps_have_the_aspect_of_the_domain(system):
    u = dataset(system, 1, 2).isel(sample=0).rename(time="lead_time")
    figure = plot.panels(u, u, system, system.field_names[0], "any")
    figure.draw_without_rendering()
    first, second = system.grid.axes
    maps = [ax for ax in figure.axes if ax.get_aspect() == 1]
    assert len(maps) == 6 and len(figure.axes) == 9  # three colour bars
    for ax in maps:
        box = ax.get_window_extent()
        assert box.width / box.height == pytest.approx(first.length / second.length, rel=0.1)


def test_north_is_up_and_colour_bars_have_units():
    """Weather comes as (latitude, longitude) in units."""
    system = load_system("natlantic")
    u = dataset(system, 1, 2).isel(sample=0).rename(time="lead_time")
    figure = plot.panels(u, u, system, "msl", "any")
    figure.draw_without_rendering()
    first, bars = figure.axes[0], [ax for ax in figure.axes if ax.get_aspect() != 1]
    assert figure.axes[4].get_xlabel() == "longitude" and first.get_ylabel().endswith("latitude")
    assert first.get_xlim()[0] < -60 and first.get_ylim()[0] > 25
    shown = np.asarray(first.collections[0].get_array()).reshape(17, 33)
    np.testing.assert_allclose(shown, u["msl"].isel(lead_time=0).transpose("latitude", "longitude"), rtol=1e-6)
    assert [ax.get_ylabel() for ax in bars] == ["Pa"] * 3 and first.get_title() == "lead 0 d"


def test_the_maps_show_the_values(found):
    figure = found.draw("fields", found.choice(field="velocity_x", method="fno"))
    truth, member = found.truth()["velocity_x"], found.member("fno")["velocity_x"]
    meshes = [ax.collections[0].get_array() for ax in figure.axes[:12]]
    leads = [0, 1, 3, 4]
    for column, k in enumerate(leads):
        v, u = (x.isel(lead_time=k).transpose("y", "x").values for x in (truth, member))
        for mesh, expected in zip(meshes[column::4], (v, u, u - v), strict=True):
            np.testing.assert_allclose(np.asarray(mesh).reshape(v.shape), expected, rtol=1e-6)


def test_spread_and_error_share_a_scale(found, drawn):
    figure = drawn("spread")
    limits = {ax.collections[0].get_clim() for ax in figure.axes[4:8]}
    u = found.ensemble("si-em")["buoyancy"].sel(lead_time=found.choice().lead, method="nearest")
    deviation = np.asarray(figure.axes[4].collections[0].get_array()).ravel()
    assert len(limits) == 1 and next(iter(limits))[0] == 0
    np.testing.assert_allclose(deviation, u.transpose("member", "y", "x").values.std(0, ddof=1).ravel(), rtol=1e-4)


def test_plots_of_ones_own_forecasts():
    """In a notebook, without the results of a benchmark."""
    u = dataset(SYSTEM, 4, 3).rename(time="lead_time").isel(lead_time=slice(1, None))
    v = u.map(lambda x: 1.2 * x if x.name in SYSTEM.field_names else x)
    ensemble = xr.concat([v, 1.1 * u[list(SYSTEM.field_names)]], "member", data_vars="all", join="exact", coords="minimal")
    scores = compare(ensemble, u, SYSTEM)
    table = to_xarray(rows("mine", scores, SYSTEM.field_names), {"mine": 3})
    assert table["evaluations"].item() == 3 and table.sizes["lead_time"] == 2
    first = {"sample": 0, "member": 0}
    for figure in (
        plot.error_growth(table, SYSTEM, "crps"),
        plot.accuracy(table, SYSTEM, 0.5),
        plot.pareto(table, SYSTEM, 0.5),
        plot.spectra({"mine": scores}, SYSTEM, 0.5),
        plot.rank_histogram({"mine": scores}, SYSTEM, 0.5),
        plot.panels(ensemble.isel(first), u.isel(sample=0), SYSTEM, "buoyancy", "mine"),
        plot.spread(ensemble.isel(sample=0), u.isel(sample=0), SYSTEM, "buoyancy", 0.5, "mine"),
    ):
        assert picture(figure).std() > 0.03


def test_the_parts_of_the_error_add_up(found):
    scores = found.scores["si-em"]
    parts = budget.of_leads(scores)
    assert parts.dims == ("lead_time", "field", "part") and list(parts["part"].values) == list(budget.PARTS)
    total = scores["mse_member"].mean("case") / scores["std"] ** 2
    np.testing.assert_allclose(parts.sum("part"), total, rtol=1e-12)
    assert float(parts.min()) >= 0
    first = parts.isel(lead_time=0)
    np.testing.assert_allclose(first.sel(part="codec") / first.sum("part"), 0.1)
    np.testing.assert_allclose(first.sel(part="feedback"), 0, atol=1e-12)
    waves = budget.of_wavenumbers(scores).isel(k=slice(1, None))
    np.testing.assert_allclose(
        waves.sum("part"), (scores["error_spectrum_member"] / scores["spectrum_truth"]).isel(k=slice(1, None))
    )
    alone = found.evaluations["codec/dcae"]
    assert budget.of_leads(alone) is None and budget.of_wavenumbers(alone) is None


def test_no_part_of_the_error_is_negative(found):
    """One step that is worse than the rollout, and a codec that is worse than both: the whole is the codec's."""
    scores = found.scores["si-em"].copy()
    scores["mse_one_step"], scores["mse_floor"] = 2 * scores["mse_member"], 3 * scores["mse_member"]
    parts = budget.of_leads(scores)
    np.testing.assert_allclose(parts.sel(part="codec") / parts.sum("part"), 1)
    scores["mse_member"] = scores["mse_member"].where(scores["lead_time"] < 2, np.inf)
    lost = budget.of_leads(scores).isel(lead_time=-1)
    assert lost.isnull().all()
    assert isinstance(plot.error_budget(scores, found.system, "si-em"), Figure)


def test_the_budget_is_drawn_where_there_is_one(found, drawn):
    fields = len(SYSTEM.fields)
    with_budget, without = drawn("spectra"), plot.spectra(found.evaluations, SYSTEM, 1.0)
    assert len(with_budget.axes) == 3 * fields and len(without.axes) == 2 * fields
    labels = {t.get_text() for t in with_budget.legends[0].get_texts()}
    assert {"truth", "si-em", "dcae codec alone", "error: codec", "error: one step", "error: feedback"} <= labels
    parts = budget.of_leads(found.scores["si-em"]).sel(field="buoyancy")
    shares = (100 * parts / parts.sum("part")).transpose("part", "lead_time").cumsum("part").values
    for kind in ("error", "crps"):
        names = {t.get_text() for t in drawn(kind).legends[0].get_texts()}
        assert {"dcae codec alone", "error: codec", "error: one step", "error: feedback"} <= names
        below = drawn(kind).axes[fields + 1]  # of the first field, under the curves of all fields and their mean
        edges = [stack.get_paths()[0].vertices[:, 1] for stack in below.collections]
        for edge, share in zip(edges, shares, strict=True):
            assert np.isclose(edge[:, None], share, rtol=1e-6).any(0).all(), kind


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shells", [slice(None), slice(3, 6)])
def test_spectra_where_the_truth_has_nothing(found, shells):
    """In some shells, or in all of a field."""
    choice = found.choice()
    scores = {name: ds.copy(deep=True) for name, ds in found.scores.items()}
    for ds in scores.values():
        ds["spectrum_truth"][{"k": shells, "field": 0}] = 0.0
    figure = plot.spectra(scores, found.system, choice.lead, choice.method)
    assert picture(figure).std() > 0.03


def test_results_without_a_budget(found):
    """Scores that an earlier version kept."""
    here = Results.open(found.folder)
    unknown = ["mse_member", "error_spectrum_member", "rank_histogram"]
    here.evaluations = {n: ds.drop_vars(unknown, errors="ignore") for n, ds in here.evaluations.items()}
    assert {kind for _, kind, _ in found.gallery()} - {kind for _, kind, _ in here.gallery()} == {"budget", "ranks"}
    with pytest.raises(InputError, match="si-em has no error budget"):
        here.draw("budget", here.choice())
    with pytest.raises(InputError, match="no row has a rank histogram; it takes an ensemble"):
        here.draw("ranks", here.choice())


def test_the_pareto_set(found, drawn):
    figure = drawn("pareto")
    line = next(x for x in figure.axes[1].get_lines() if x.get_label() == "Pareto set")
    row = found.table["value"].sel(field="mean", row=list(ROWS)).sel(lead_time=found.choice().lead, method="nearest")
    points = list(zip(*(row.sel(score=s).values for s in ("vrmse_member", "srmse_total")), strict=True))
    best = sorted(p for p in points if not any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points))
    np.testing.assert_allclose(line.get_xydata(), best)


def test_trials_of_tune_have_a_panel_of_their_own(found):
    trials = xr.Dataset({s: ("trial", [0.1, 0.2, 0.3]) for s in ("vrmse", "srmse")}).assign_coords(
        sampler=("trial", ["si-e", "si-em", "si-em"])
    )
    figure = plot.pareto(found.table, found.system, 0.5, trials=trials)
    assert len(figure.axes) == 3 and "validation" in figure.axes[2].get_title()
    lines = {x.get_label(): x for x in figure.axes[2].get_lines()}
    assert {"si-e (tuning)", "si-em (tuning)"} == set(lines) - {"Pareto set"}
    assert lines["si-em (tuning)"].get_color() == style.styles(list(ROWS))["si-em"]["color"]  # as in the other panels


def test_accuracy_against_cost(found, drawn):
    left = drawn("accuracy").axes[0]
    points = {c.get_label(): c[0].get_xydata()[0] for c in left.containers}
    row = found.table["value"].sel(field="mean", score="vrmse_mean").sel(lead_time=found.choice().lead, method="nearest")
    for name, (_, _, evaluations) in ROWS.items():
        if evaluations:
            np.testing.assert_allclose(points[name], [evaluations, float(row.sel(row=name))])
    assert "persistence" in {x.get_label() for x in left.get_lines()} and left.get_xscale() == "log"


def test_a_line_joins_the_steps_of_a_method(found):
    table, steps = found.table.sel(row=["fno", "si-em", "si-em", "si-em", "si-em"]), [1, 10, 2, 5, 4]
    table = table.assign_coords(row=["fno", "si-em@10", "si-em", "si-em@5", "si-em@4/dcae-dit"], evaluations=("row", steps))
    table["value"] = table["value"] * xr.DataArray([1.0, 0.6, 1.0, 0.8, 0.7], dims="row")
    figure = plot.accuracy(table, SYSTEM, 2.5)
    (line,) = (x for x in figure.axes[0].get_lines() if x.get_linestyle() == "-" and len(x.get_xdata()) > 1)
    values = table["value"].sel(field="mean", score="vrmse_mean").sel(lead_time=2.5, method="nearest")
    np.testing.assert_allclose(line.get_xydata().T, [[2, 5, 10], values.isel(row=[2, 3, 1])])


@pytest.mark.parametrize("score", ["spread_skill", "log_spectral_distance_high"])
def test_every_score_of_the_table_is_a_plot(found, drawn, score):
    top = drawn(score).axes[-1]
    row = found.table["value"].sel(row="si-em", field="mean", score=score)
    (line,) = (x for x in top.get_lines() if x.get_label() == "si-em")
    np.testing.assert_allclose(line.get_xydata().T, [row["lead_time"], row])


def test_lost_forecasts_are_left_out_and_draw_all_the_same(found):
    broken = {n: ds.copy() for n, ds in found.scores.items()}
    for name in ("vrmse_mean", "spectrum"):
        values = broken["fno"][name]
        broken["fno"][name] = values.where(values["lead_time"] < 2, np.inf)
    figure = plot.spectra(broken, SYSTEM, 2.5)
    assert "fno" not in {x.get_label() for x in figure.axes[0].get_lines()}
    table = found.table.copy(deep=True)
    table["value"].loc[{"row": "fno", "score": "vrmse_mean"}] = np.nan
    assert "fno" not in {x.get_label() for x in plot.error_growth(table, SYSTEM, "vrmse_mean").axes[0].get_lines()}
    plot.accuracy(table, SYSTEM, 0.5)


def test_what_cannot_be_drawn_is_said(found):
    for arguments, message in (
        ({"field": "bouyancy"}, "no field 'bouyancy' in .*: did you mean 'buoyancy'"),
        ({"method": "si-me"}, "no method 'si-me' in .*: did you mean 'si-em'"),
        ({"lead": 0.7}, "no lead 0.7 in .*: evaluated are 0.5, 1, 1.5, 2, 2.5"),
    ):
        with pytest.raises(InputError, match=message):
            found.choice(**arguments)
    with pytest.raises(InputError, match="no plot 'spectre': did you mean 'spectra'"):
        found.draw("spectre", found.choice())
    with pytest.raises(
        InputError, match=r"keeps the members of si-em alone: choose --method si-em, or run .* --sampler fno"
    ):
        found.draw("spread", found.choice(method="fno"))
    with pytest.raises(InputError, match="has one member"):
        plot.spread(found.ensemble("si-em").isel(member=slice(1)), found.truth(), SYSTEM, "buoyancy", 1.0, "si-em")


def test_the_choice_that_is_left_out(found):
    assert found.leads() == [0.5, 2.5] and found.choice() == Choice("buoyancy", 2.5, "si-em")
    assert found.choice(lead=2.0) == Choice("buoyancy", 2.0, "si-em")
