"""Muon: orthogonal updates, and which weights it takes."""

import torch
from torch import nn

from physinterp.nn.unet import UNet
from physinterp.optim import Muon, optimizers, orthogonal


def test_orthogonal_moves_all_singular_values_near_one() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((8, 32), (32, 8), (16, 16)):
        singular = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=generator)))
        assert singular.min() > 0.3 and singular.max() < 1.3, shape


def test_update_of_a_matrix_is_orthogonal_and_of_the_stated_size() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(6, 24))
    weight.grad = torch.randn(6, 24)
    Muon([weight], lr=0.1).step()
    assert torch.allclose(torch.linalg.svdvals(weight.detach()), torch.full((6,), 0.1), rtol=0.4)
    assert (weight * weight.grad).sum() < 0  # downhill


def test_zero_gradient_leaves_a_weight() -> None:
    weight = nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.zeros(4, 4)
    Muon([weight], lr=0.1).step()
    assert torch.equal(weight, torch.ones(4, 4))


def test_each_parameter_has_one_optimizer_and_edges_are_adams() -> None:
    network = UNet(4, 2, ("periodic", "wall"), widths=(8, 16))
    muon, adam = optimizers(network, 0.02)
    names = {id(p): n for n, p in network.named_parameters()}
    taken = [[names[id(p)] for g in o.param_groups for p in g["params"]] for o in (muon, adam)]
    assert sorted(taken[0] + taken[1]) == sorted(names.values())
    assert all("conv" in n or "shrink" in n or "grow" in n for n in taken[0])
    assert "stem.conv.weight" in taken[1] and "head.conv.weight" in taken[1]
    assert adam.param_groups[0]["lr"] < muon.param_groups[0]["lr"]


def test_beats_gradient_descent_on_an_ill_conditioned_least_squares_problem() -> None:
    torch.manual_seed(0)
    x = torch.randn(256, 16) * torch.logspace(0, -2, 16)
    y = x @ torch.randn(16, 16)

    def final(make: type) -> float:
        weight = nn.Parameter(torch.zeros(16, 16))
        optimizer = make([weight], lr=0.05)
        for step in range(200):
            optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 200)
            optimizer.zero_grad()
            loss = (x @ weight - y).square().mean()
            loss.backward()
            optimizer.step()
        return loss.item()

    assert final(Muon) < final(torch.optim.SGD)
