"""What a benchmark will cost, before anything starts: parameters, memory, disk and time.

Networks are built and run on one state; the solver makes one short advance where no earlier run says how fast it is. The
times are those of this machine's processor. Memory and disk follow from the shapes.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from physinterp import evaluate
from physinterp.autoencoder import Autoencoder
from physinterp.config import Preset, home, load_benchmark
from physinterp.data import generate, recipe, splits
from physinterp.emulator import SampledStepper
from physinterp.methods import ModelName, make_codec, make_model, make_sampler, method, model_name
from physinterp.model import Model
from physinterp.runs import HELD, Runs
from physinterp.solvers import SOLVERS
from physinterp.system import System, load_system
from physinterp.tune import CORRELATIONS
from physinterp.types import Conditioning

FLOAT = 4  # bytes
COPIES = 6  # of the parameters in training: weights, gradient, two moments, moving average, the best so far
STATES = 5  # of the states of the training split, while the statistics of their steps are taken
SCORING = 6  # copies of one lead's forecasts in single precision that the scores take
AT_ONCE = 2**25  # values at one lead of a forecast that are forecast and scored together
RESIDUALS = 64  # states of which the residual is taken together, without gradients: half of what is kept with them
BATCH = 16  # trajectories that the solver advances together
QUICK = 2.0  # seconds
DRAWING = 4.0  # seconds of all plots per field, and once more


@dataclass(frozen=True)
class Network:
    """Something that is trained.

    Attributes:
        name: of the model, or `codec-NAME`.
        parameters: how many.
        activations: bytes that a training step keeps for one state.
        seconds: of training; 0 where the weights are there already.
        ready: whether they are.
    """

    name: str
    parameters: int
    activations: int
    seconds: float
    ready: bool


class Plan:
    """The cost of a preset of a system.

    Arguments:
        system, preset: names; None is the default preset.
        seed: of the training, for what is there already.
        data: what is trained on; None as in `Runs`.
    """

    def __init__(self, system: str, preset: str | None = None, seed: int = 0, data: str | None = None) -> None:
        benchmark = load_benchmark(load_system(system))
        self.preset_name = preset or benchmark.default
        self.preset: Preset = benchmark.preset(preset)
        self.runs = Runs(load_system(system), self.preset, self.preset_name, seed, data=data)
        self.system: System = self.runs.system
        self.rows = {name: method(name) for name in self.preset.methods}

    # networks ------------------------------------------------------------------------------------------------------

    @cached_property
    def networks(self) -> tuple[Network, ...]:
        """Codecs and models, in the order of the rows."""
        names = {m: None for row in self.rows.values() if (m := model_name(row, self.preset)) is not None}
        trunks = {m.trunk: None for m in names if m.trunk is not None and m.trunk not in names}
        codecs = {m.codec: None for m in names if m.codec != "identity"}
        return (*map(self._codec, codecs), *(self._model(m, only_trunk=True) for m in trunks), *map(self._model, names))

    def _codec(self, name: str) -> Network:
        codec = make_codec(name, self.system, self.preset)
        if not isinstance(codec, Autoencoder):
            raise TypeError(f"{name} is no codec that is trained")

        def loss(size: int) -> Tensor:
            return codec.loss(torch.randn(size, len(self.system.fields), *self.system.grid.shape), self._conditioning(size))

        return self._network(f"codec-{name}", codec, loss, self.preset.training.codec)

    def _model(self, name: ModelName, only_trunk: bool = False) -> Network:
        """A model, or its share of the training until others branch off."""
        model, shape = self._built(name)
        generator = torch.Generator().manual_seed(0)

        def loss(size: int) -> Tensor:
            x0, x1 = torch.randn(2, size, *shape)
            return model.loss(x0, x1, self._conditioning(size), generator)

        t = self.preset.training
        share = 1.0 if name.codec == "identity" else 1 - t.codec
        share *= t.trunk if only_trunk else 1 if name.trunk is None else 1 - t.trunk
        return self._network(str(name), model, loss, share)

    def _built(self, name: ModelName) -> tuple[Model, tuple[int, ...]]:
        """A model and the shape of its states."""
        codec = make_codec(name.codec, self.system, self.preset)
        shape = (codec.latent_channels, *codec.latent_shape(self.system.grid.shape))
        torch.manual_seed(0)
        return make_model(name, self.system, self.preset, shape, torch.ones(shape[0])), shape

    def _network(self, name: str, network: torch.nn.Module, loss: Callable[[int], Tensor], share: float) -> Network:
        """A network that has a share of the budget; a budget of steps takes as long as its steps."""
        t, ready = self.preset.training, self.runs.weights(name) is not None
        count = sum(p.numel() for p in network.parameters())
        if t.seconds is not None:
            whole = t.seconds
        else:
            whole = (t.steps or 0) * t.batch * _seconds(lambda size: loss(size).backward(), t.batch)
        return Network(name, count, _kept(loss), 0.0 if ready else share * whole, ready)

    def _conditioning(self, size: int) -> Conditioning:
        return Conditioning(self.system.told(torch.zeros(size, len(self.system.parameters) + self.system.dated)))

    # sizes ---------------------------------------------------------------------------------------------------------

    @cached_property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Trajectories and frames per split."""
        if self.runs.data is not None:
            opened = {name: self.runs.open(name) for name in splits(self.runs.data, self.system)}
            return {name: (ds.sizes["sample"], ds.sizes["time"]) for name, ds in opened.items()}
        frames = self.preset.frames or (self.system.solver.frames if self.system.solver else 0)
        return {k: (self.preset.trajectories.get(k, s.trajectories), frames) for k, s in self.system.splits.items()}

    @property
    def cases(self) -> int:
        """Initial conditions that are forecast."""
        return self.preset.starts * self.sizes.get("test", self.sizes["valid"])[0]

    def _states(self, *names: str) -> int:
        """Bytes of all fields of some splits."""
        return FLOAT * self._values * sum(math.prod(self.sizes[name]) for name in names)

    def _held(self, name: str) -> int:
        """Bytes of a split in memory; a large one is read as it is needed."""
        return size if (size := self._states(name)) <= HELD else 0

    @property
    def _values(self) -> int:
        return len(self.system.fields) * math.prod(self.system.grid.shape)

    @cached_property
    def latents(self) -> int:
        """Bytes of the encoded states."""
        total = 0
        for name in (n.name.removeprefix("codec-") for n in self.networks if n.name.startswith("codec-")):
            codec = make_codec(name, self.system, self.preset)
            values = codec.latent_channels * math.prod(codec.latent_shape(self.system.grid.shape))
            total += self._states("train", "valid") // self._values * values
        return total

    # what it costs -------------------------------------------------------------------------------------------------

    def disk(self) -> dict[str, int]:
        """Bytes on disk by what takes them."""
        kept = self.preset.lead * self._values * FLOAT
        return {
            "data": 0 if self.runs.data is not None else self._states(*self.sizes),
            "latents": self.latents,
            "weights": sum(FLOAT * n.parameters * (2 if n.name.startswith("deterministic") else 1) for n in self.networks),
            "results": kept * (self.cases * (self.preset.members + 1) + len(self.rows)),
        }

    def memory(self) -> dict[str, int]:
        """Bytes of memory at most, by what takes them; training and forecasting do not happen at once."""
        import lightning_fabric  # noqa: F401  as the training does

        batch = self.preset.training.batch
        states = max(batch, RESIDUALS / 2)
        training = max((COPIES * FLOAT * n.parameters + states * n.activations for n in self.networks), default=0)
        scoring = SCORING * FLOAT * min(self._values * self.cases * self.preset.members, AT_ONCE)
        return {
            "libraries": peak_memory(),
            "states of train and valid": STATES * self._held("train") + self._held("valid") + self.latents,
            "training or forecasting": round(max(training, scoring)),
        }

    def seconds(self) -> dict[str, float]:
        """Time by what takes it; 0 for what is there already."""
        return {
            "data": self._data(),
            "training": sum(n.seconds for n in self.networks),
            "calibration and forecasts": sum(self._forecasts()),
            "scores and plots": sum(self._scores()) + DRAWING * (1 + len(self.system.fields)),
        }

    def _data(self) -> float:
        if self.runs.data is not None:
            return 0.0
        p = self.preset
        counts = {name: count for name, (count, _) in self.sizes.items()}
        made = recipe.plan(self.system, counts, p.shape, frames=p.frames, spin_up=p.spin_up)
        folder = home() / "data" / f"{self.system.name}-{made.key}"
        todo = [b for s in made.splits for b in recipe.batches(made, self.system, folder, s) if not b.path.is_file()]
        duration = made.spin_up + (made.frames - 1) * made.dt
        count = sum(len(b.seeds) for b in todo)
        return (generate.rate(folder) or _rate(made)) * duration * count if count else 0.0

    def _forecasts(self) -> Iterator[float]:
        """Seconds of each learned row: the calibration on the validation split, then the test split."""
        valid = 2 * self.sizes["valid"][0] * 2 * (1 + len(CORRELATIONS))  # two starts, two members
        for row in self.rows.values():
            name = model_name(row, self.preset)
            if name is None:
                continue
            model, shape = self._built(name)
            step = SampledStepper(model, make_sampler(row, model, self.preset.steps)).eval()
            states = self.cases if row.deterministic else self.cases * self.preset.members + valid
            yield self.preset.lead * (states + self.cases) * self._step(step, shape)  # one more for the error budget

    def _scores(self) -> Iterator[float]:
        """Seconds that the scores and the error budget of each row take."""
        shape = len(self.system.fields), *self.system.grid.shape

        def run(size: int, members: int) -> None:
            forecast, truth = torch.randn(size, members, *shape), torch.randn(size, *shape)
            error = forecast - truth[:, None]
            evaluate.score(forecast, truth, self.system.grid)
            parts = {"member": error, "one_step": error[:, :1], "floor": error[:, :1]}
            evaluate.budget(parts, self.system.grid)

        each = {m: _seconds(partial(run, members=m), self.preset.micro_batch) for m in {1, self.preset.members}}
        for row in self.rows.values():
            yield self.preset.lead * self.cases * each[1 if row.deterministic else self.preset.members]

    @torch.inference_mode()
    def _step(self, step: SampledStepper, shape: tuple[int, ...]) -> float:
        """Seconds of one physical step of one state."""

        def run(size: int) -> Tensor:
            return step(torch.randn(size, *shape), self._conditioning(size), noise=lambda k: torch.randn(size, *shape))

        return _seconds(run, self.preset.micro_batch)


def peak_memory() -> int:
    """Bytes of memory that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _kept(loss: Callable[[int], Tensor]) -> int:
    """Bytes that the loss of one state keeps for its backward pass."""
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss(1)
    return sum(sizes.values())


def _seconds(run: Callable[[int], object], size: int) -> float:
    """Seconds per state: of a batch where that is quick, else of one state."""
    run(1)  # the first call is slower
    one = _time(lambda: run(1))
    return one if one * size > QUICK else _time(lambda: run(size)) / size


def _time(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def _rate(made: recipe.Recipe) -> float:
    """Seconds per simulated time unit and trajectory of a batch that has left its calm initial state."""
    arguments = {name.lower(): value for name, value in made.settings[0].items()}
    dtype = getattr(torch, made.dtype)
    solver = SOLVERS[made.solver](shape=made.shape, length=made.length, dtype=dtype, device="cpu", **arguments)
    state, end = solver.initial(range(BATCH)), time.perf_counter() + QUICK
    while time.perf_counter() < end:
        state = solver.advance(state, made.dt)
    return _time(lambda: solver.advance(state, made.dt)) / (made.dt * BATCH)
