"""Names of rows: what they are wired to, and what is said of wrong ones."""

from __future__ import annotations

import pytest
import torch
from toy import PRESET, RBC

from physinterp.autoencoder import Autoencoder, Identity
from physinterp.baselines.fno import FNOBackbone
from physinterp.drift import Drift
from physinterp.errors import InputError
from physinterp.methods import (
    BACKBONES,
    METHODS,
    OBJECTIVES,
    ModelName,
    make_codec,
    make_model,
    make_sampler,
    method,
    model_name,
)
from physinterp.samplers import SAMPLERS


def test_every_row_is_wired():
    for name, row in METHODS.items():
        assert method(name) is row
        assert row.objective is None or row.objective in OBJECTIVES
        assert row.sampler is None or row.sampler in SAMPLERS
        assert row.backbone is None or row.backbone in BACKBONES
    assert {"persistence", "climatology", "deterministic", "fno", "ddpm", "edm", "si-e", "si-em"} <= set(METHODS)
    deterministic = {n for n, row in METHODS.items() if row.deterministic}
    assert deterministic >= {"persistence", "climatology", "deterministic", "fno", "si-e"}
    assert not deterministic & {"si-em", "ddpm", "edm"}


def test_rows_that_share_a_model():
    names = {name: str(model_name(row, PRESET)) for name, row in METHODS.items()}
    assert names["si-e"] == names["si-em"] == "interpolant-identity-unet"
    assert names["deterministic"] == "deterministic-identity-unet" and names["fno"] == "deterministic-identity-fno"
    assert names["persistence"] == names["climatology"] == "None"
    assert str(ModelName("edm", "dcae", "dit").trunk) == "deterministic-dcae-dit"
    assert ModelName("deterministic", "dcae", "dit").trunk is None


def test_a_row_on_another_codec_and_backbone():
    row = method("si-em/dcae-dit")
    assert (row.objective, row.sampler, row.codec, row.backbone) == ("interpolant", "si-em", "dcae", "dit")
    assert str(model_name(row, PRESET)) == "interpolant-dcae-dit"
    assert method("deterministic/identity-fno").backbone == "fno"


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
        ("si-em/identity-fno", "the fno does not see noise"),
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
    model = make_model(
        ModelName(objective, codec, "unet"), RBC, PRESET, channels, torch.ones(channels), torch.ones(channels)
    )
    assert type(model) is OBJECTIVES[objective]
    x = torch.randn(2, channels, *shape)
    from physinterp.types import Conditioning

    loss = model.loss(x, x + 1, Conditioning(torch.zeros(2, 2)), torch.Generator().manual_seed(0))
    assert loss.ndim == 0 and bool(torch.isfinite(loss))


def test_models_of_a_seed_are_equal_and_fno_has_no_second_input():
    def build(backbone: str) -> torch.nn.Module:
        torch.manual_seed(3)
        return make_model(ModelName("deterministic", "identity", backbone), RBC, PRESET, 4, torch.ones(4))

    a, b = build("unet").state_dict(), build("unet").state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert isinstance(build("fno").backbone, FNOBackbone) and build("fno").backbone.channels == 4


def test_samplers_take_the_interpolant_of_their_model():
    model = make_model(ModelName("interpolant", "identity", "unet"), RBC, PRESET, 4, torch.ones(4), torch.full((4,), 0.25))
    assert isinstance(model, Drift)
    sampler = make_sampler(METHODS["si-em"], model, {"si-em": 7})
    assert sampler.steps == 7 and sampler.interpolant.sigma.unique().tolist() == [0.25]
    assert make_sampler(METHODS["deterministic"], model, {}) is None
    with pytest.raises(InputError, match="no steps for sampler 'si-em': did you mean 'si-e'"):
        make_sampler(METHODS["si-em"], model, {"si-e": 2})
    with pytest.raises(ValueError, match="needs sigma"):
        make_model(ModelName("interpolant", "identity", "unet"), RBC, PRESET, 4, torch.ones(4))


def test_networks_that_the_preset_does_not_know():
    with pytest.raises(InputError, match="no arguments for network 'dit'"):
        make_model(ModelName("deterministic", "identity", "dit"), RBC, PRESET, 4, torch.ones(4))
