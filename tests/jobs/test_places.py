import threading
from dataclasses import replace

import pytest
import torch

from fp_bench.errors import UnavailableError
from fp_bench.jobs.accuracy import job as accuracy_job
from fp_bench.jobs.accuracy.plan import make_plan as make_accuracy_plan
from fp_bench.jobs.latency import job as latency_job
from fp_bench.jobs.machine import Machine
from fp_bench.jobs.places import Place
from fp_bench.jobs.threads import merged
from fp_bench.models.load import load_model
from fp_bench.records.store import RecordStore, read_records
from tests.cli.test_cli import fpbench
from tests.jobs.accuracy.models import save_model
from tests.jobs.accuracy.test_job import request as accuracy_request
from tests.jobs.latency.test_job import quick_plan, request
from tests.jobs.places import Shaky

each_job = pytest.mark.parametrize("name", ["latency", "accuracy"])


def identities(records):
    return sorted((r.cell_key, r.round, r.status, getattr(r, "prediction", None)) for r in records)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a function that runs a job in a folder at places, and returns what it wrote."""
    # Its answers are noise, and the same noise each time; the embedded model takes ten times as long.
    model = str(save_model(tmp_path_factory.mktemp("model")))
    jobs = {
        "latency": (latency_job, lambda: quick_plan(request("dense,flashprefill", lens=[128, 256]))),
        "accuracy": (accuracy_job, lambda: make_accuracy_plan(accuracy_request(model=model, lens=[1024]))),
    }

    def run(name, folder, places):
        job, plan = jobs[name]
        with RecordStore(folder) as store:
            list(job.run(plan(), store, replace(job.DEFAULT, isolate=len(places) > 1), places))
        return identities(read_records(folder).records)

    return run


@pytest.fixture(scope="module")
def undisturbed(run, tmp_path_factory):
    jobs = ("latency", "accuracy")
    return {name: run(name, tmp_path_factory.mktemp(name), [Place.of(Machine.here())]) for name in jobs}


@each_job
def test_several_places_write_what_one_does(name, tmp_path, run, undisturbed):
    assert run(name, tmp_path, [Place.of(Machine.here()) for _ in range(2)]) == undisturbed[name]


@each_job
@pytest.mark.parametrize(
    "losses", [*(pytest.param(each, marks=pytest.mark.slow) for each in [(1,), (2,), (4,)]), (2, 7)]
)
def test_a_lost_place_is_replaced_and_nothing_is_lost_or_twice(name, losses, tmp_path, run, undisturbed):
    assert run(name, tmp_path, [Shaky(losses)]) == undisturbed[name]


@each_job
def test_what_loses_one_place_after_the_other_is_a_record(name, tmp_path, run, undisturbed):
    found = run(name, tmp_path, [Shaky(range(1, 100))])
    failed = [record for record in read_records(tmp_path).records if record.status == "error"]
    assert failed
    assert all(
        record.reason == "the device was lost, and so was the next one: the machine is gone" for record in failed
    )
    assert {key for key, *_ in found} == {key for key, *_ in undisturbed[name]}


@each_job
def test_where_there_is_no_other_the_rest_goes_elsewhere(name, tmp_path, run, undisturbed):
    places = [Shaky({3}, replacements=0), Place.of(Machine.here())]
    assert run(name, tmp_path, places) == undisturbed[name]


@each_job
def test_when_all_are_lost_what_was_measured_is_kept_and_the_same_command_goes_on(name, tmp_path, run, undisturbed):
    with pytest.raises(UnavailableError, match="every device is lost, the last one: the machine is gone; the same"):
        run(name, tmp_path, [Shaky({5}, replacements=0)])
    kept = identities(read_records(tmp_path).records)
    assert 0 < len(kept) < len(undisturbed[name])
    assert run(name, tmp_path, [Place.of(Machine.here())]) == undisturbed[name]


def test_sources_are_read_at_the_same_time():
    both = threading.Barrier(2, timeout=10)

    def source(name):
        both.wait()
        yield f"{name}1"
        both.wait()
        yield f"{name}2"

    found = list(merged([source("a"), source("b")]))
    assert sorted(found) == ["a1", "a2", "b1", "b2"]
    assert found.index("a1") < found.index("a2")


@pytest.mark.parametrize("others", [0, 1])
def test_what_a_source_raises_comes_after_what_it_gave(others):
    def broken():
        yield 1
        raise KeyError("broken")

    found = merged([broken(), *[iter([])] * others])
    assert next(found) == 1
    with pytest.raises(KeyError, match="broken"):
        next(found)


@pytest.mark.skipif(Machine.here().gpu is not None, reason="about machines without a GPU")
def test_devices_that_are_not_here_are_one_line():
    done = fpbench("latency", "--lens", "128", "--devices", "0,1")
    assert (done.exit_code, done.stderr) == (
        3,
        "fpbench: --devices 0 is not here: 0 GPUs are visible, numbered from 0\n",
    )


@pytest.mark.parametrize("more", [["--devices", "0"], ["--ray", "local"], ["--workers", "2"]])
def test_one_copy_over_all_gpus_is_not_shared_otherwise(more):
    done = fpbench("accuracy", "--spread", *more)
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
    assert "--spread is one copy of the model on all visible GPUs; give no --devices, --ray or --workers" in done.stderr


def test_without_accelerate_nothing_is_spread(monkeypatch):
    monkeypatch.setattr("transformers.modeling_utils.is_accelerate_available", lambda: False)
    monkeypatch.setattr("transformers.integrations.accelerate.is_accelerate_available", lambda: False)
    with pytest.raises(UnavailableError, match="accelerate"):
        load_model("embedded", device=torch.device("cpu"), dtype=torch.float32, spread=True)


@pytest.mark.parametrize("verb", ["latency", "accuracy"])
def test_devices_of_two_kinds_are_refused(verb):
    done = fpbench(verb, "--devices", "0", "--ray", "local")
    assert done.exit_code == 2
    assert "--devices 0 are GPUs of this machine, but --ray uses a cluster; give only one" in done.stderr


def test_ray_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    done = fpbench("latency", "--ray", "local")
    assert (done.exit_code, done.stderr) == (
        3,
        "fpbench: --ray needs Ray; install it with: pip install 'fp_bench[ray]'\n",
    )


def test_ray_does_the_same_on_two_workers(tmp_path, run, undisturbed):
    pytest.importorskip("ray", reason="Ray is not installed here")
    from fp_bench.jobs.cluster import ray_places

    with ray_places("local", 2) as places:
        assert run("accuracy", tmp_path, places) == undisturbed["accuracy"]
