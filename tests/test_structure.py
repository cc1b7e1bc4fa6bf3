"""The shape of the package: import directions, no print, no pickle, documented, short files."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import physinterp

PACKAGE = Path(physinterp.__file__).parent
ROOT = PACKAGE.parent
FILES = sorted(PACKAGE.rglob("*.py"))
LINES = 400

# Data flow in one direction: a module imports only what stands in an earlier line, or beside it in its own line.
ORDER = (
    ("_mkl",),
    ("errors", "options", "types"),
    ("checkpoint",),
    ("grid",),
    ("system",),
    ("config",),
    ("solvers",),
    ("data",),
    ("fields",),
    ("layout", "noise"),
    ("initial",),
    ("watchdog",),
    ("store",),
    ("calibration", "interpolant", "metrics", "optim"),
    ("samplers",),
    ("model",),
    ("nn",),
    ("autoencoder", "baselines"),
    ("drift",),
    ("methods",),
    ("emulator",),
    ("evaluate", "table"),
    ("budget",),
    ("pairs",),
    ("measure",),
    ("train",),
    ("runs",),
    ("tune",),
    ("doctor",),
    ("plan", "plot"),
    ("results",),
    ("summary",),
    ("report", "terminal"),
    ("benchmark",),
    ("forecast",),
    ("console",),
    ("data_cli",),
    ("cli",),
)


def name_of(path: Path) -> str:
    return ".".join((PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def group(module: str) -> str:
    """physinterp.data.well -> data."""
    return module.split(".")[1] if "." in module else ""


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def main_guard(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Modules that a file imports, and whether at its top (not where a function is called, nor as a script)."""

    def visit(node: ast.AST, top: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if main_guard(child):
                continue
            if isinstance(child, ast.Import):
                yield from ((alias.name, top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: relative import"
                base = child.module or ""
                for alias in child.names:
                    submodule = PACKAGE.parent / Path(*base.split("."), alias.name)
                    inner = submodule.is_dir() or submodule.with_suffix(".py").is_file()
                    yield f"{base}.{alias.name}" if base.startswith(PACKAGE.name) and inner else base, top
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from visit(child, top and not inside)

    yield from visit(tree(path), True)


def ours(path: Path) -> set[str]:
    return {m for m, _ in imports(path) if m.split(".")[0] == PACKAGE.name}


def test_the_order_names_every_module():
    found = {
        p.stem if p.suffix else p.name for p in PACKAGE.iterdir() if (p.suffix == ".py" or (p / "__init__.py").is_file())
    }
    listed = [name for line in ORDER for name in line]
    assert len(listed) == len(set(listed))
    assert found - {"__init__", "__main__"} <= set(listed), "put new modules into ORDER, after all that they import"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_go_one_way(path):
    rank = {name: i for i, line in enumerate(ORDER) for name in line}
    me = group(name_of(path))
    if not me:  # __init__ re-exports lazily
        return
    for module in ours(path):
        other = group(module)
        if other and other != me:
            assert rank[other] < rank[me], f"{path.name} imports {module}, which stands later"


def test_types_and_errors_import_no_module_that_they_could_be_imported_by():
    assert ours(PACKAGE / "types.py") == {"physinterp._mkl"} and not ours(PACKAGE / "errors.py")


def test_networks_import_types_alone():
    for path in (PACKAGE / "nn").glob("*.py"):
        assert {m for m in ours(path) if not m.startswith("physinterp.nn")} <= {"physinterp.types"}, path.name


def test_the_interpolant_knows_no_network():
    assert not ours(PACKAGE / "interpolant.py")
    text = (PACKAGE / "interpolant.py").read_text()
    assert "nn" not in {m.split(".")[-1] for m, _ in imports(PACKAGE / "interpolant.py")} and "torch.nn" not in text


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_a_file_is_short_silent_and_without_pickle(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= LINES
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("torch.load", "torch.save", "pickle.load", "pickle.loads", "np.load", "eval", "exec"), (
                called
            )
            assert called != "print", "print belongs to nobody: use logging, or the Console of the command line"
            if called == "hasattr":
                pytest.fail("hasattr: a class is abstract or final")
    assert not {m.split(".")[0] for m, _ in imports(path)} & {
        "pickle",
        "joblib",
        "dill",
        "wandb",
        "torchvision",
        "lightning",
    }
    used = {m.split(".")[0] for m, _ in imports(path)}
    assert "typer" not in used or path.name in ("cli.py", "console.py", "data_cli.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_what_is_public_is_documented(path):
    module = tree(path)
    assert ast.get_docstring(module), "the module has no docstring"
    implemented = {"forward", "step", "loss", "advance", "denoise", "coefficients", "evaluations", "grid", "start"}
    implemented |= {"colour", "drift", "interpolant", "levels", "mean", "residual", "source"}

    def check(node: ast.AST, where: str, inherited: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.FunctionDef | ast.ClassDef) or child.name.startswith("_"):
                continue
            if inherited and child.name in implemented:  # said once, where it is declared
                continue
            assert ast.get_docstring(child), f"{where}{child.name} has no docstring"
            if isinstance(child, ast.ClassDef):
                check(child, f"{where}{child.name}.", bool(child.bases))

    check(module, f"{name_of(path)}.", False)


def test_every_module_can_be_imported():
    for module in pkgutil.walk_packages(physinterp.__path__, "physinterp."):
        if module.name != "physinterp.__main__":
            importlib.import_module(module.name)


def test_public_names():
    from physinterp.data import ADAPTERS
    from physinterp.interpolant import BrownianInterpolant, LinearInterpolant, QuadraticInterpolant
    from physinterp.methods import METHODS
    from physinterp.metrics import METRICS
    from physinterp.samplers import SAMPLERS
    from physinterp.solvers import SOLVERS

    assert callable(physinterp.open_dataset) and callable(physinterp.load) and isinstance(physinterp.Emulator, type)
    assert all(isinstance(kind, type) for kind in (BrownianInterpolant, LinearInterpolant, QuadraticInterpolant))
    for table in (ADAPTERS, METHODS, METRICS, SAMPLERS, SOLVERS):
        assert type(table) is dict and table and all(isinstance(name, str) for name in table)
    with pytest.raises(AttributeError, match="no attribute 'emulator_'"):
        physinterp.emulator_  # noqa: B018


def test_datasets_and_benchmarks_hold_no_code():
    for folder in ("datasets", "benchmarks"):
        found = {p.relative_to(ROOT).as_posix() for p in (ROOT / folder).rglob("*.py")}
        assert not {p for p in found if p.endswith("__init__.py")} and (folder != "datasets" or not found)


def test_the_command_line_answers_without_torch():
    """Wrong options and --help are said at once."""
    code = "import sys; import physinterp.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


FIRST_CALLS = """
import os, sys
import torch
import physinterp.types
torch.set_num_threads(1)
x = torch.rand(2**18) + 0.5
wrong = 0
for k in range(3000):
    if (pid := os.fork()) == 0:
        torch.set_num_threads(2)
        first = (x.sqrt, x.exp, x.cos)[k % 3]
        os._exit(not torch.equal(first(), first()))
    wrong += os.waitpid(pid, 0)[1] != 0
sys.exit(f"{wrong} of 3000 first calls differ from the second" if wrong else 0)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or not torch.backends.mkl.is_available(), reason="forks, and needs MKL")
def test_first_calls_of_two_threads_are_right():
    """Without `_mkl`, 27 of 6000 were not (PyTorch 2.13, two cores of an Intel Xeon)."""
    done = subprocess.run([sys.executable, "-c", FIRST_CALLS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
