"""Names of rows: what they are wired to, and what is said of wrong ones."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from toy import PRESET, RBC

from physinterp.autoencoder import Autoencoder, Identity
from physinterp.baselines.deterministic import Deterministic
from physinterp.baselines.fno import FNOBackbone
from physinterp.calibration import PATTERNS, White
from physinterp.config import load_benchmark
from physinterp.drift import Drift, ForecastDrift, StateDrift
from physinterp.errors import InputError
from physinterp.methods import (
    BACKBONES,
    METHODS,
    OBJECTIVES,
    STEPS,
    Method,
    ModelName,
    make_codec,
    make_model,
    make_sampler,
    method,
    model_name,
    sampler_steps,
)
from physinterp.model import Model
from physinterp.samplers import SAMPLERS
from physinterp.system import load_system
from physinterp.types import Conditioning

SHAPE = (4, 16, 8)


def build(objective: str, backbone: str = "unet", scale: float = 1.0) -> Model:
    """An untrained model of the toy preset on fields."""
    return make_model(ModelName(objective, "identity", backbone), RBC, PRESET, SHAPE, torch.full((4,), scale))


def test_every_row_is_wired():
    for name, row in METHODS.items():
        assert method(name) is row
        assert row.objective is None or row.objective in OBJECTIVES
        assert row.sampler is None or row.sampler in SAMPLERS
        assert row.backbone is None or row.backbone in BACKBONES
    assert {"persistence", "climatology", "deterministic", "fno", "ddpm", "edm", "si-e", "si-em"} <= set(METHODS)
    deterministic = {n for n, row in METHODS.items() if row.deterministic}
    assert deterministic == {"persistence", "climatology", "deterministic", "fno", "si-e", "si-e-state"}


def test_every_sampler_has_a_row_of_its_name():
    """The name of a sampler is that of its row, with its own model; other rows may use it too."""
    for name, sampler in SAMPLERS.items():
        assert METHODS[name].sampler == name and METHODS[name].deterministic == sampler.deterministic
    assert {row.objective for row in METHODS.values()} == {None, *OBJECTIVES}


@cache
def built(system: str, name: ModelName) -> Model:
    card, preset = load_system(system), load_benchmark(load_system(system)).preset("tiny")
    card = card.with_grid(preset.shape)
    codec = make_codec(name.codec, card, preset)
    shape = (codec.latent_channels, *codec.latent_shape(card.grid.shape))
    return make_model(name, card, preset, shape, torch.ones(shape[0])).eval()


@pytest.mark.parametrize("system", ["kolmogorov", "rbc"])
@pytest.mark.parametrize("name", METHODS)
def test_every_row_can_be_built_from_the_preset_tiny(system, name):
    preset, row = load_benchmark(load_system(system)).preset("tiny"), METHODS[name]
    what = model_name(row, preset)
    if what is None:
        assert name in ("persistence", "climatology") and row.sampler is None
        return
    model = built(system, what)
    assert type(model) is OBJECTIVES[row.objective]
    sampler = make_sampler(row, model, preset.steps)
    if row.sampler is None:
        assert sampler is None and name in ("deterministic", "fno")
    else:
        assert type(sampler) is SAMPLERS[row.sampler] and sampler.steps == sampler_steps(row, preset.steps)
    card = load_system(system).with_grid(preset.shape)
    x = torch.randn(1, len(card.fields), *card.grid.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = model.advance(x, Conditioning(torch.zeros(1, len(card.parameters))), sampler, lambda k: x)
    assert out.shape == x.shape and bool(torch.isfinite(out).all())


@pytest.mark.parametrize("system", ["kolmogorov", "rbc", "natlantic", "era5"])
def test_every_preset_names_rows_and_samplers_that_exist(system):
    for size, preset in load_benchmark(load_system(system)).presets.items():
        rows = [method(name) for name in preset.methods]
        others = set() if size == "demo" else {"deterministic-dressed", "si-cal"}
        assert {"deterministic", "si-e", "si-em", *others} <= set(preset.methods)
        assert set(preset.steps) <= {row.sampler for row in rows}


@pytest.mark.parametrize("system", ["natlantic", "era5", "era5_13levels"])
@pytest.mark.parametrize("size", ["tiny", "quick"])
def test_networks_of_weather(system, size):
    """Every row of a preset fits the grid, also those of `default.yaml`; the step is that of the card."""
    card = load_system(system)
    found = load_benchmark(card)
    preset, shape = found.preset(size), (len(card.fields), *card.grid.shape)
    assert preset.step == card.dt and set(found.headline) <= set(card.field_names)
    x, cond, s = torch.randn(1, *shape), Conditioning(card.told(torch.zeros(1, 1))), torch.zeros(1)
    for what in {model_name(method(name), preset) for name in preset.methods} - {None}:
        model = make_model(what, card, preset, shape, torch.ones(shape[0])).eval()
        with torch.no_grad():
            assert model.backbone(torch.cat([x, x], 1), s, cond).shape == x.shape


def test_rows_that_share_a_model():
    names = {name: str(model_name(row, PRESET)) for name, row in METHODS.items()}
    for sampler in SAMPLERS:
        assert not sampler.startswith("si-") or names[sampler] == "interpolant-identity-unet"
    assert names["si-e-state"] == names["si-em-state"] == names["si-cal-state"] == "interpolant-state-identity-unet"
    assert names["deterministic"] == names["deterministic-dressed"] == "deterministic-identity-unet"
    assert names["fno"] == "deterministic-identity-fno"
    assert names["persistence"] == names["climatology"] == "None"
    assert str(ModelName("edm", "dcae", "dit").trunk) == "deterministic-dcae-dit"
    assert ModelName("deterministic", "dcae", "dit").trunk is None


def test_a_row_on_another_codec_and_backbone():
    assert method("si-em@50").steps == 50 and method("si-em").steps is None
    assert (method("edm@3/dcae-dit").steps, method("edm@3/dcae-dit").codec) == (3, "dcae")
    row = method("si-em/dcae-dit")
    assert (row.objective, row.sampler, row.codec, row.backbone) == ("interpolant", "si-em", "dcae", "dit")
    assert str(model_name(row, PRESET)) == "interpolant-dcae-dit"
    assert method("deterministic/identity-fno").backbone == "fno"
    dressed = method("deterministic-dressed/dcae-unet")
    assert (dressed.sampler, dressed.steps, dressed.codec) == ("si-cal", 1, "dcae")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("si-emm", "no method 'si-emm': did you mean 'si-em'"),
        ("persistance", "did you mean 'persistence'"),
        ("", "no method ''"),
        ("si-em/dcea-dit", "no codec 'dcea': did you mean 'dcae'"),
        ("si-em/dcae-dti", "no backbone 'dti': did you mean 'dit'"),
        ("si-em/dcae", "no backbone ''.*write METHOD/CODEC-BACKBONE"),
        ("persistence/dcae-dit", "has no choice of codec and backbone; leave out '/dcae-dit'"),
        ("fno/dcae-dit", "has no choice"),
        ("si-em@0", "@0 is no number of steps; write METHOD@STEPS"),
        ("si-em@many", "@many is no number of steps"),
        ("fno@5", "method 'fno' has no choice of steps; leave out '@5'"),
        ("deterministic-dressed@5", "has no choice of steps"),
        ("si-em/identity-fno", "the fno does not see noise"),
        ("si-em-state/identity-fno", "the fno does not see noise"),
    ],
)
def test_wrong_names(name, message):
    with pytest.raises(InputError, match=message):
        method(name)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("codec", ["identity", "dcae"])
def test_every_objective_on_every_codec(objective, codec):
    encoder = make_codec(codec, RBC, PRESET)
    assert isinstance(encoder, Identity if codec == "identity" else Autoencoder)
    channels, shape = encoder.latent_channels, encoder.latent_shape(RBC.grid.shape)
    model = make_model(ModelName(objective, codec, "unet"), RBC, PRESET, (channels, *shape), torch.ones(channels))
    assert type(model) is OBJECTIVES[objective]
    x = torch.randn(2, channels, *shape)
    loss = model.loss(x, x + 1, Conditioning(torch.zeros(2, 2)), torch.Generator().manual_seed(0))
    assert loss.ndim == 0 and bool(torch.isfinite(loss))


def test_models_of_a_seed_are_equal_and_fno_has_no_second_input():
    def seeded(backbone: str) -> Model:
        torch.manual_seed(3)
        return build("deterministic", backbone)

    a, b = seeded("unet").state_dict(), seeded("unet").state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert isinstance(seeded("fno").backbone, FNOBackbone) and seeded("fno").backbone.channels == 4


def test_the_covariance_knows_the_axes_of_the_system():
    model = build("deterministic")
    assert isinstance(model, Deterministic) and model.covariance.periodic == (-2,)
    assert model.covariance.values.shape == (9, min(32, PATTERNS))  # wavenumbers of 16 points; 4 channels, 8 points


def test_the_drift_from_a_forecast_has_a_twin_and_a_network_of_its_own():
    """Its network sees the residual from the first step of its training on; the twin and the others start from a twin."""
    model = build("interpolant")
    assert isinstance(model, ForecastDrift) and isinstance(model.twin, Deterministic)
    assert not any(p.requires_grad for p in model.twin.parameters())
    assert all(p.requires_grad for p in model.backbone.parameters())
    of_residual = {name: bool(net.stem.conv.weight[:, 4:].any()) for name, net in (("drift", model.backbone),
                   ("twin", model.twin.backbone), ("state", build("interpolant-state").backbone))}  # fmt: skip
    assert of_residual == {"drift": True, "twin": False, "state": False}
    networks = {**PRESET.networks, "unet-residual": {"widths": [4]}, "dcae-unet-residual": {"widths": [6]}}
    preset = PRESET.model_copy(update={"networks": networks})
    widths = {
        codec: make_model(ModelName("interpolant", codec, "unet"), RBC, preset, SHAPE, torch.ones(4)).backbone.head.conv
        for codec in ("identity", "dcae")
    }
    assert {codec: conv.in_channels for codec, conv in widths.items()} == {"identity": 4, "dcae": 6}


def test_samplers_take_the_interpolant_of_their_model():
    state, forecast, twin = build("interpolant-state"), build("interpolant"), build("deterministic")
    assert isinstance(state, StateDrift) and isinstance(forecast, Drift) and isinstance(twin, Deterministic)
    state.covariance.sigma.fill_(0.25)
    sampler = make_sampler(METHODS["si-cal-state"], state, {"si-cal": 7}, temperature=0.5)
    assert sampler.steps == 7 and sampler.temperature == 0.5
    assert sampler.interpolant.sigma.unique().tolist() == [0.25] and sampler.residual is state.covariance
    for row, model in (("si-cal", forecast), ("deterministic-dressed", twin)):
        sampler = make_sampler(METHODS[row], model, {})
        assert float(sampler.interpolant.sigma) == 1 and isinstance(sampler.residual, White)
    assert make_sampler(METHODS["deterministic"], twin, {}) is None
    for name in ("ddpm", "edm", "fm"):
        row = METHODS[name]
        assert type(make_sampler(row, build(row.objective), {}).interpolant) is type(OBJECTIVES[row.objective].path)


def test_steps_are_those_of_the_row_then_of_the_preset_then_five():
    assert sampler_steps(METHODS["si-em"], {"si-em": 7, "si-cal": 3}) == 7
    assert sampler_steps(METHODS["si-em-state"], {"si-em": 7}) == 7
    assert sampler_steps(METHODS["si-em"], {"si-e": 2}) == STEPS == 5
    assert sampler_steps(METHODS["deterministic-dressed"], {"si-cal": 7}) == 1
    assert sampler_steps(Method("interpolant", "si-em", steps=4), {"si-em": 7}) == 4


def test_networks_that_the_preset_does_not_know():
    with pytest.raises(InputError, match="no arguments for network 'dit'"):
        build("deterministic", "dit")
    with pytest.raises(InputError, match="no arguments for network 'dit'"):
        build("interpolant", "dit")
