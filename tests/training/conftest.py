"""What tests of training share."""

from itertools import count
from types import SimpleNamespace

import pytest


@pytest.fixture
def steady_clock(monkeypatch):
    """A run's clock moves a fifth of a second whenever it is looked at, however busy the machine is."""
    from loomvideo.training import run

    ticks = count()
    monkeypatch.setattr(run, "time", SimpleNamespace(monotonic=lambda: next(ticks) / 5))
