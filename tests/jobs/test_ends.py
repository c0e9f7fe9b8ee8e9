"""How a run ends before it is done: Ctrl-C, signals, kills; and what is left behind: records, and nothing else."""

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import active_children, get_context
from pathlib import Path

import pytest

from fp_bench.jobs.failures import Answer
from fp_bench.jobs.isolation import Worker, WorkerProcess
from fp_bench.jobs.machine import Machine
from fp_bench.jobs.places import Place
from fp_bench.jobs.server import TOLD
from fp_bench.jobs.workers import Workers
from fp_bench.records.reading import read_records
from tests.cli.test_cli import fpbench
from tests.jobs.test_places import each_job, run, undisturbed  # noqa: F401  fixtures
from tests.jobs.trivial import Trivial
from tests.soak.kill_resume import accuracy_run, children, command, hear, identities, is_alive, latency_run, lines

ROOT = Path(__file__).parents[2]
HOSTILE = ("random", "socket", "struct", "signal", "selectors", "tempfile", "queue", "numpy")
"""Modules that the server of workers, or a worker, imports."""
RUNS = {
    "latency": latency_run(methods="dense,flashprefill", lens="128,256", rounds=12),
    "accuracy": accuracy_run(methods="dense,flashprefill", lens="300", samples=4, workers=2),
}


def start(*words, module="fp_bench", env=(), **more):
    """Start a run that hears Ctrl-C and SIGHUP."""
    # An empty part would be the working directory.
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, words)],
        env=os.environ | {"PYTHONPATH": path} | dict(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear,
        start_new_session=True,
        **more,
    )


def gone(pids, seconds=30):
    """Wait until processes are gone; return those that are not."""
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in pids if is_alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def servers(pid):
    """Return the servers of a run's workers: one, or none yet."""
    return [child for child in children(pid, below=False) if b"forkserver" in command(child)]


def workers(pid):
    """Return a run's workers: it has some while it measures."""
    return [worker for server in servers(pid) for worker in children(server, below=False)]


@each_job
@pytest.mark.parametrize("delay", [0.02, 0.4])
def test_ctrl_c_with_two_places_ends_all_and_loses_nothing(name, delay, tmp_path, run, undisturbed):  # noqa: F811
    def interrupt(*_):
        raise KeyboardInterrupt

    places, threads = [Place.of(Machine.here()) for _ in range(2)], set(threading.enumerate())
    before = signal.signal(signal.SIGALRM, interrupt)
    # Hypothesis listens to the garbage collector, and an interrupt that lands there is lost.
    listening = gc.callbacks[:]
    gc.callbacks.clear()
    try:
        signal.setitimer(signal.ITIMER_REAL, delay)
        run(name, tmp_path, places)
    except KeyboardInterrupt:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.callbacks[:] = listening
    assert not [worker for worker in active_children() if worker.is_alive()]
    assert set(threading.enumerate()) == threads
    assert run(name, tmp_path, places) == undisturbed[name]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", RUNS)
def test_ctrl_c_at_ten_moments_with_two_places(name, tmp_path):
    asked, draw, folder = RUNS[name], random.Random(0), tmp_path / "run"
    whole = start(*asked.words, "--out", tmp_path / "whole", module="tests.jobs.two_places")
    began = time.monotonic()
    said = whole.communicate()[1]
    assert whole.returncode == 0, said
    longest, interrupted = time.monotonic() - began, 0
    for number in range(10):
        running = start(*asked.words, "--out", folder, module="tests.jobs.two_places")
        # Accuracy has its server before its plan. Every other time the moment is one at which it measures.
        while running.poll() is None and not (workers if number % 2 else servers)(running.pid):
            time.sleep(0.005)
        time.sleep(draw.uniform(0, longest / 4))
        below, measures = children(running.pid), bool(workers(running.pid))
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGINT)
        said = running.communicate()[1].splitlines()
        assert not gone(below)
        if lines(folder) == asked.whole:  # the report was made, or being made
            folder = tmp_path / f"run-{number}"
            continue
        interrupted += 1
        # Python makes a signal of what interrupts it while it executes text; a shell says 130 of both.
        assert running.returncode in (130, -signal.SIGINT), said
        kept = (
            f"interrupted: {lines(folder)} records are kept in {folder}; the same command resumes with --out {folder}"
        )
        assert said[-1] in {kept} | ({"fpbench: interrupted"} if not measures else set()), said
        assert "Traceback" not in "".join(said), "\n".join(said)
    last = start(*asked.words, "--out", folder, module="tests.jobs.two_places")
    said = last.communicate()[1]
    assert last.returncode == 0, said
    assert identities(folder) == identities(tmp_path / "whole")
    print(f"{name}: {interrupted} of 10 interrupted")


def test_ctrl_c_while_the_plan_is_made_is_one_line(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("fp_bench.jobs.latency.plan.make_plan", interrupted)
    done = fpbench("latency", "--out", tmp_path)
    assert (done.exit_code, done.stderr) == (130, "fpbench: interrupted\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_says_what_is_kept_and_removes_what_is_not(number, code, tmp_path, odd_methods):
    temporary, folder = tmp_path / "tmp", tmp_path / "run"
    temporary.mkdir()
    words = ["latency", "--methods", "slow", "--lens", "128", "--shape", "1/1/64", "--rounds", "999", "--samples", "1"]
    path = os.pathsep.join([str(ROOT), str(odd_methods)])
    running = start(*words, "--out", folder, env={"TMPDIR": str(temporary), "PYTHONPATH": path})
    while lines(folder) < 3:
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)
    below = children(running.pid)
    running.send_signal(number)
    said = running.communicate()[1]
    assert running.returncode == code, said
    assert f"ended by {number.name}: {len(read_records(folder).records)} records are kept in {folder}" in said
    assert not gone(below)
    assert list(temporary.iterdir()) == []


def test_ctrl_c_twice_ends_at_once_and_says_nothing_of_it(tmp_path, odd_methods):
    words = ["latency", "--methods", "slow", "--lens", "128", "--shape", "1/1/64", "--rounds", "999", "--samples", "1"]
    path = os.pathsep.join([str(ROOT), str(odd_methods)])
    temporary, folder = tmp_path / "tmp", tmp_path / "run"
    temporary.mkdir()
    running = start(*words, "--out", folder, env={"TMPDIR": str(temporary), "PYTHONPATH": path})
    while lines(folder) < 1:
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)
    below = children(running.pid)
    for _ in range(2):
        running.send_signal(signal.SIGINT)
        time.sleep(0.01)
    said = running.communicate()[1]
    assert running.returncode in (130, -signal.SIGINT), said
    assert "Traceback" not in said
    assert not gone(below)
    assert list(temporary.iterdir()) == []


def killed_alone(running, temporary):
    """Kill the process that was started, but for its children; return what it leaves."""
    below = children(running.pid)
    running.kill()
    left = gone(below)
    running.communicate()
    return below, left, list(temporary.iterdir())


def test_a_killed_process_leaves_neither_workers_nor_files(tmp_path):
    running = start(module="tests.jobs.trivial", env={"TMPDIR": str(tmp_path)})
    workers = set(map(int, running.stdout.readline().split()))
    below, left, files = killed_alone(running, tmp_path)
    assert workers <= set(below)
    assert not left
    assert files == []


def test_nothing_of_the_working_directory_runs(tmp_path):
    for name in HOSTILE:
        (tmp_path / f"{name}.py").write_text(f"open('{tmp_path}/{name}.ran', 'w').close()\nraise SystemExit(9)\n")
    words = ["latency", "--methods", "dense", "--lens", "128", "--shape", "1/1/64", "--rounds", "1", "--samples", "1"]
    running = start(*words, "--out", tmp_path / "run", cwd=tmp_path)
    said = running.communicate()[1]
    assert not list(tmp_path.glob("*.ran"))
    assert running.returncode == 0, said


def test_workers_have_the_environment_of_the_run():
    worker = WorkerProcess(Trivial)
    there = worker.call("environment")
    worker.close()
    for name in ("PYTHONPATH", "PYTHONSAFEPATH", TOLD):
        assert there.get(name) == os.environ.get(name)


def test_where_names_of_temporary_files_are_long_workers_start(tmp_path):
    temporary = tmp_path / ("long" * 25)
    temporary.mkdir()
    running = start(module="tests.jobs.trivial", env={"TMPDIR": str(temporary)})
    assert len(running.stdout.readline().split()) == 3
    assert not killed_alone(running, temporary)[1]


def test_a_server_that_ends_at_its_start_is_no_interrupt():
    code = "from multiprocessing import set_executable as s; s('/bin/false'); from tests.jobs.trivial import *; "
    code += "from fp_bench.errors import UnavailableError\ntry: WorkerProcess(Trivial)\n"
    code += "except UnavailableError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("no worker process can be started: their server ended")


def test_a_server_that_is_killed_before_its_next_worker_starts_is_replaced_without_a_word():
    code = """
import os
from multiprocessing import forkserver
from fp_bench.jobs import isolation
from tests.jobs.trivial import Trivial

def then_killed(imports):
    start(imports)
    os.kill(forkserver._forkserver._forkserver_pid, 9)
    os.waitid(os.P_PID, forkserver._forkserver._forkserver_pid, os.WEXITED | os.WNOWAIT)
    isolation.start_server = start

start, isolation.start_server = isolation.start_server, then_killed
print(isolation.WorkerProcess(Trivial).call("pid"))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout.strip().isdigit(), done.stderr) == (True, "")


def test_a_server_that_a_method_kills_is_started_again(tmp_path):
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "plugin_fatal")])
    words = ["--methods", "kills_server,dense", "--lens", "128", "--shape", "1/1/64", "--rounds", "1", "--samples", "1"]
    start("latency", *words, "--out", tmp_path, env={"PYTHONPATH": path}).communicate()
    assert {record.label: record.status for record in read_records(tmp_path).records} == {
        "kills_server": "error",
        "dense": "ok",
    }


def test_a_worker_whose_start_seemed_to_fail_answers_in_no_other_s_place(monkeypatch):
    kind, started = get_context("forkserver").Process, []
    start = kind.start

    def seems_to_fail(process):
        start(process)
        started.append(process.pid)
        if len(started) == 1:
            raise EOFError

    monkeypatch.setattr(kind, "start", seems_to_fail)
    worker = WorkerProcess(Trivial)
    assert [worker.call("pid") for _ in range(4)] == [started[1]] * 4
    assert not gone(started[:1])
    worker.close()


class Loads:
    """Is of use once it has loaded."""

    def __init__(self, _):
        self.loaded = False

    def load(self):
        self.loaded = True
        return Answer(None)

    def answer(self):
        return Answer(self.loaded)


class Some(Workers):
    def made(self, _name):
        return Loads, None

    def make_room(self, _name):
        return False


def test_a_worker_that_ended_after_it_had_loaded_is_replaced_by_one_that_loads(monkeypatch):
    workers = Some(isolate=False)
    assert workers.load("a", 1) is None
    ((_, post),) = workers.posts()
    post.worker.close()
    monkeypatch.setattr(Worker, "is_alive", property(lambda worker: worker._object is not None))
    assert workers.step("a", "answering", "answer", limit=1) is True
    assert workers.posts()[0][1] is not post


def test_a_worker_that_died_while_it_had_nothing_to_do_is_known_to_have():
    worker = WorkerProcess(Trivial)
    os.kill(worker.call("pid"), signal.SIGKILL)
    assert not gone([worker.pid])
    assert not worker.is_alive
    worker.close()
    again = WorkerProcess(Trivial)
    assert again.is_alive
    again.close()
