import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from fp_bench.jobs.isolation import LocalWorker, WorkerHungError, WorkerLostError, WorkerProcess


class Thing:
    def __init__(self, number):
        self.number = number

    def add(self, more):
        self.number += more
        return self.number

    def fail(self):
        raise KeyError("no such thing")

    def die(self, number):
        os.kill(os.getpid(), number)

    def sleep(self, path):
        child = subprocess.Popen(["sleep", "600"])
        path.write_text(str(child.pid))
        time.sleep(600)


def test_calls_share_the_object_and_errors_leave_it_usable():
    for make in (WorkerProcess, LocalWorker):
        worker = make(Thing, 1)
        assert [worker.call("add", 2), worker.call("add", 3)] == [3, 6]
        with pytest.raises((RuntimeError, KeyError), match="no such thing"):
            worker.call("fail")
        assert worker.call("add", 0) == 6
        worker.close()


def test_a_crash_names_the_signal():
    worker = WorkerProcess(Thing, 1)
    with pytest.raises(WorkerLostError, match="killed by SIGSEGV"):
        worker.call("die", int(signal.SIGSEGV))
    worker.close()  # closing twice is fine


def test_a_hang_ends_with_all_it_started(tmp_path):
    worker = WorkerProcess(Thing, 1)
    ticks = []
    with pytest.raises(WorkerHungError, match=r"within 0.5 s"):
        worker.call("sleep", tmp_path / "child", timeout=0.5, tick=lambda: ticks.append(1))
    assert ticks
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 30
    while _is_running(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _is_running(child)


def _is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
