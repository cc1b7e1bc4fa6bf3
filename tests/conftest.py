"""What the tests share: a private PHYSINTERP_HOME, so that no test reads or writes a user's cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def session_home(tmp_path_factory) -> Iterator[Path]:
    """PHYSINTERP_HOME of everything that a whole session shares, such as one trained `tiny` benchmark."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PHYSINTERP_HOME", str(home))
        yield home


@pytest.fixture
def fresh_home(tmp_path, monkeypatch, session_home) -> Path:
    """An empty PHYSINTERP_HOME for one test."""
    home = tmp_path / "home"
    monkeypatch.setenv("PHYSINTERP_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def artificial_results(tmp_path_factory) -> Path:
    """A folder with results that nobody trained; not to be written to."""
    from artificial import results

    return results(tmp_path_factory.mktemp("artificial")).folder


@pytest.fixture(autouse=True)
def _private_home(session_home) -> None:
    """Every test."""
