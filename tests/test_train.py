"""The training loop: budget, search, log, interruption and resumption to the bit."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from physinterp import train
from physinterp.config import Training
from physinterp.errors import InputError
from physinterp.pairs import HeldPairs
from physinterp.system import validate
from physinterp.train import Trainer
from physinterp.types import Conditioning


class Toy(nn.Module):
    """x1 = f(x0) with noise in the loss; interrupts or breaks at a step of the optimiser."""

    def __init__(self, interrupt: int | None = None, broken: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 8, 3, padding=1), nn.GELU())
        self.head = nn.Conv2d(8, 2, 1)
        self.register_buffer("constant", torch.tensor(3.0))
        self.interrupt, self.broken, self.calls = interrupt, broken, 0

    def loss(self, x0: Tensor, x1: Tensor, cond: Conditioning, generator: torch.Generator) -> Tensor:
        if torch.is_grad_enabled():
            self.calls += 1
            if self.calls == self.interrupt:
                raise KeyboardInterrupt
        noisy = x0 + 0.01 * torch.randn(x0.shape, generator=generator)
        loss = (x0 + self.head(self.hidden(noisy)) - x1).square().mean()
        return loss * float("nan") if self.calls == self.broken else loss


def pairs(seed: int, stride: int = 2) -> HeldPairs:
    x = torch.randn(4, 1, 2, 8, 8, generator=torch.Generator().manual_seed(seed))
    return HeldPairs(x * 0.8 ** torch.arange(9)[:, None, None, None], torch.arange(4.0)[:, None], stride)


TRAIN, VALID = pairs(0), pairs(1)


def plan(**values) -> Training:
    return Training(**({"steps": 24, "batch": 4, "learning_rates": (0.02,)} | values))


def fit(folder, model=None, budget=1.0, training=None, **options):
    model = model or Toy()
    record = Trainer(training or plan(), 0, folder).fit(model, TRAIN, VALID, budget, "toy", **options)
    return model, record


def log(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


# pairs -------------------------------------------------------------------------------------------------------------


def test_pairs_are_a_stride_apart():
    assert len(TRAIN) == 4 * 7
    x0, x1, cond = TRAIN.select(torch.tensor([0, 6, 7, 27]))
    for row, (n, t) in enumerate([(0, 0), (0, 6), (1, 0), (3, 6)]):
        assert torch.equal(x0[row], TRAIN.states[n, t]) and torch.equal(x1[row], TRAIN.states[n, t + 2])
    assert cond.parameters.flatten().tolist() == [0, 0, 1, 3]


def test_the_scale_of_the_one_step_change():
    x = torch.zeros(1, 5, 3, 2, 2)
    x[:, :, 0] = 3 * torch.arange(5.0)[:, None, None]
    x[:, :, 1] = torch.tensor([0, 1, 0, 1, 0.0])[:, None, None]
    assert HeldPairs(x, torch.zeros(1, 0), 1).difference_std().tolist() == pytest.approx([3, 1, 1e-6])
    assert HeldPairs(x, torch.zeros(1, 0), 2).difference_std().tolist() == pytest.approx([6, 1e-6, 1e-6])


def test_batches_are_moved_along_homogeneous_axes(tmp_path):
    """Both states of a pair alike, by another distance in every step, and along no other axis."""
    seen: list[tuple[Tensor, Tensor]] = []

    class Watched(Toy):
        def loss(self, x0: Tensor, x1: Tensor, *rest) -> Tensor:
            if torch.is_grad_enabled():
                seen.append((x0.clone(), x1.clone()))
            return super().loss(x0, x1, *rest)

    moved = replace(TRAIN, homogeneous=(-2,))
    x0, x1, _ = TRAIN.select(torch.arange(len(TRAIN)))
    Trainer(plan(steps=6), 0, tmp_path).fit(Watched(), moved, VALID, 1.0, "toy")
    shifts = []
    for a, b in seen:
        found = [k for k in range(8) for u, v in zip(x0, x1, strict=True)
                 if torch.equal(a[0], u.roll(k, -2)) and torch.equal(b[0], v.roll(k, -2))]  # fmt: skip
        assert len(found) == 1 and all(any(torch.equal(row, u.roll(found[0], -2)) for u in x0) for row in a)
        shifts += found
    assert len(shifts) == 6 and len(set(shifts)) > 2


# budget and log ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("budget", "expected"), [(1.0, 24), (0.5, 12)])
def test_a_budget_in_steps(tmp_path, budget, expected):
    model, record = fit(tmp_path, budget=budget)
    assert model.calls == record["steps"] == expected
    assert record["learning_rate"] == 0.02 and record["pairs"] == len(TRAIN) and record["valid_loss"] > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.jsonl", "state.safetensors"]


def test_a_budget_in_seconds(tmp_path):
    begun = time.perf_counter()
    _, record = fit(tmp_path, training=plan(steps=None, seconds=1.0), budget=0.4)
    assert 0.4 <= record["seconds"] <= time.perf_counter() - begun + 0.05
    assert record["steps"] >= 1


def test_a_budget_is_seconds_or_steps():
    for values in ({"steps": 3, "seconds": 2.0}, {}):
        with pytest.raises(InputError, match="seconds or as steps, not both"):
            validate(Training, values, "x.yaml")


def test_training_lowers_the_validation_loss(tmp_path):
    start = Trainer(plan(), 0, tmp_path).validate(Toy(), VALID)
    _, record = fit(tmp_path, training=plan(steps=80))
    assert record["valid_loss"] < 0.97 * start


def test_the_log(tmp_path):
    fit(tmp_path)
    rows = log(tmp_path)
    assert [row["step"] for row in rows] == [1, 11, 21]
    assert all(
        row.keys() == {"step", "seconds", "used", "learning_rate", "candidate", "loss", "gradient_norm"} for row in rows
    )
    assert rows[0]["learning_rate"] < rows[1]["learning_rate"] > rows[2]["learning_rate"] > 0


def test_the_share_of_waiting_is_noted(tmp_path):
    class Slow(HeldPairs):
        def select(self, index):
            time.sleep(0.02)
            return super().select(index)

    slow = Slow(TRAIN.states, TRAIN.parameters, TRAIN.stride)
    record = Trainer(plan(steps=8), 0, tmp_path / "a").fit(Toy(), slow, VALID, 1.0, "toy")
    assert 0.2 < record["waiting"] <= 1 and record["waiting"] * record["seconds"] >= 0.1
    assert Trainer(plan(steps=8), 0, tmp_path / "b").fit(Toy(), TRAIN, VALID, 1.0, "toy")["waiting"] < record["waiting"]


def test_a_loss_that_is_not_finite(tmp_path):
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 4, learning rate .*: lower it"):
        fit(tmp_path, Toy(broken=5))


def test_the_seed_decides(tmp_path):
    a, b = fit(tmp_path / "a")[0], fit(tmp_path / "b")[0]
    assert same(a, b)
    other = Toy()
    Trainer(plan(), 1, tmp_path / "c").fit(other, TRAIN, VALID, 1.0, "toy")
    assert not same(a, other)


def test_weights_for_use_are_averaged(tmp_path):
    still = fit(tmp_path / "a", training=plan(average=0.0))[0]
    assert not same(still, fit(tmp_path / "b", training=plan(average=0.9))[0])
    assert still.constant == 3


# search ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rates", [(1e-6, 0.02), (0.02, 1e-6)])
def test_the_search_takes_the_lower_validation_loss(tmp_path, rates):
    training = plan(steps=100, learning_rates=rates)
    model, record = fit(tmp_path, training=training)
    assert record["learning_rate"] == 0.02
    assert record["search"].keys() == {"1e-06", "0.02"} and record["search"]["0.02"] < record["search"]["1e-06"]
    assert model.calls == record["steps"] == 100  # the search is part of the budget


def test_a_candidate_that_diverges_loses(tmp_path):
    class Steep(Toy):
        def loss(self, *batch) -> Tensor:
            loss = super().loss(*batch)
            return loss if float(self.head.weight.detach().abs().max()) < 1e3 else loss * float("nan")

    _, record = fit(tmp_path, Steep(), training=plan(steps=100, learning_rates=(1e6, 0.02)))
    assert record["learning_rate"] == 0.02
    with pytest.raises(FloatingPointError, match=r"at any learning rate of .*: lower them"):
        fit(tmp_path / "b", Steep(), training=plan(steps=100, learning_rates=(1e6, 1e7)))


def test_a_candidate_that_diverges_takes_no_steps_from_the_others(tmp_path, monkeypatch):
    taken, advance = [], Trainer._advance

    def watched(self, run, *args) -> None:
        try:
            advance(self, run, *args)
        finally:
            taken.append((run.rate, run.step))

    monkeypatch.setattr(Trainer, "_advance", watched)
    _, record = fit(tmp_path, Toy(broken=3), training=plan(steps=100, learning_rates=(0.01, 0.02)))
    assert taken[:2] == [(0.01, 2), (0.02, 5)] and record["learning_rate"] == 0.02


# resumption --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [2, 9, 24])
@pytest.mark.parametrize("rates", [(0.02,), (0.002, 0.02)])
def test_an_interrupted_training_resumes_to_the_bit(tmp_path, monkeypatch, call, rates):
    training = plan(learning_rates=rates)
    whole, expected = fit(tmp_path / "whole", training=training)
    monkeypatch.setattr(train, "SAVE_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "part", Toy(interrupt=call), training=training)
    resumed, record = fit(tmp_path / "part", training=training)
    assert same(whole, resumed)
    assert record["steps"] == expected["steps"] and record["valid_loss"] == expected["valid_loss"]
    if len(rates) == 1:
        assert resumed.calls == 24 - (call - 1)
    again, repeated = fit(tmp_path / "part", training=training)  # complete: nothing is left to do
    assert same(whole, again) and again.calls == 0 and repeated["steps"] == expected["steps"]


def test_an_interruption_keeps_what_was_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "SAVE_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, Toy(interrupt=7))
    saved = load_file(tmp_path / "state.safetensors")
    assert saved["counters"][0] == 6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.jsonl", "state.safetensors"]


def test_a_training_in_two_parts_is_the_training_in_one(tmp_path):
    whole, expected = fit(tmp_path / "whole", decay=0.5)
    trunk, note = fit(tmp_path / "parts", decay=0.5, until=0.5)
    assert note["steps"] == 12 and trunk.calls == 12
    rest, record = fit(tmp_path / "parts", decay=0.5)
    assert same(whole, rest) and record["steps"] == 24 and rest.calls == 12
    assert not same(trunk, rest) and record["valid_loss"] == expected["valid_loss"]
    steps = [row["step"] for row in log(tmp_path / "parts")]
    assert steps == [1, 11, 21]


def test_asking_for_the_same_part_again_trains_nothing(tmp_path):
    first, _ = fit(tmp_path, until=0.5)
    again, record = fit(tmp_path, until=0.5)
    assert again.calls == 0 and record["steps"] == 12 and same(first, again)


def test_validation_is_the_same_every_time(tmp_path):
    trainer, model = Trainer(plan(), 0, tmp_path), Toy()
    torch.manual_seed(5)
    first = trainer.validate(model, VALID)
    torch.randn(3)
    assert trainer.validate(model, VALID) == first
    assert trainer.validate(model, VALID, batches=100) == pytest.approx(first, rel=0.5)
