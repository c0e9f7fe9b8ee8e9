"""GPU tests are skipped with a reason where there is no GPU; Triton kernels then run in Triton's interpreter."""

import os
from pathlib import Path

# Before torch is imported: calls are tiny, and on shared cores several threads wait for each other most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import matplotlib
import pytest
import torch

from fp_bench.jobs.server import start_server
from fp_bench.reports.drawing import STYLE
from fp_bench.reports.escape import csv

if not torch.cuda.is_available():
    # Must be set before any kernel is defined.
    os.environ["TRITON_INTERPRET"] = "1"

# Most of the time of a PDF goes into cutting a font to what is shown; this kind is not cut.
STYLE["pdf.fonttype"] = 3

# Speed lives in benchmarks: no example is timed. The same examples each time, so that a red run is about the change;
# `--hypothesis-profile explore` draws others.
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.register_profile("fp_bench", deadline=None, derandomize=True)
hypothesis.settings.load_profile("fp_bench")


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs an NVIDIA GPU; there is none here")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def no_pictures(request, monkeypatch):
    """Drawing takes most of a small run's time, so runs have empty pictures but where a test is about them."""
    if "results" not in request.path.parts and "draws" not in request.keywords:
        monkeypatch.setattr("fp_bench.reports.drawing.Plot.save", save_undrawn)
        monkeypatch.setattr("fp_bench.reports.drawing.Plot.png", b"")


def save_undrawn(plot, folder):
    (folder / f"{plot.name}.png").touch()
    (folder / f"{plot.name}.csv").write_text(csv(plot.data))


@pytest.fixture
def sketched(monkeypatch):
    """Have plots laid out, where their texts are read and their numbers placed, but not painted."""
    monkeypatch.setattr("fp_bench.reports.drawing.Plot.png", property(sketch))


def sketch(plot):
    with matplotlib.rc_context(STYLE):
        plot.figure.draw_without_rendering()
    return b"PNG"


@pytest.fixture(scope="session", autouse=True)
def server_of_workers():
    """Have workers forked from a server that has imported what those of any test need, not only the first's."""
    start_server(["fp_bench.jobs.latency.worker", "fp_bench.jobs.accuracy.worker", "fp_bench.models.loading.imports"])


PLUGIN = Path(__file__).parent / "plugin"


@pytest.fixture
def odd_methods(monkeypatch):
    """Install the methods of tests/plugin as a third party would; return their folder, for PYTHONPATH."""
    monkeypatch.syspath_prepend(PLUGIN)
    return PLUGIN


@pytest.fixture
def hostile_methods(odd_methods, monkeypatch):
    """Install the methods of tests/plugin_hostile, and those of tests/plugin."""
    monkeypatch.syspath_prepend(PLUGIN.with_name("plugin_hostile"))


@pytest.fixture
def fatal_methods(monkeypatch):
    """Install the methods of tests/plugin_fatal, which only a process of their own survives."""
    monkeypatch.syspath_prepend(PLUGIN.with_name("plugin_fatal"))
