import os
import signal
import subprocess
import time

import pytest

from fp_bench.jobs.isolation import Worker, WorkerHungError, WorkerLostError, WorkerProcess
from tests.soak.kill_resume import is_alive


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
        children = [subprocess.Popen(["sleep", "600"], start_new_session=own) for own in (False, True)]
        path.write_text(" ".join(str(child.pid) for child in children))
        time.sleep(600)


def test_calls_share_the_object_and_errors_leave_it_usable():
    for make in (WorkerProcess, Worker):
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
    children = list(map(int, (tmp_path / "child").read_text().split()))
    deadline = time.monotonic() + 30
    while any(map(is_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(is_alive, children))
