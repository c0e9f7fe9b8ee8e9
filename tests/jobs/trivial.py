"""``python -m tests.jobs.trivial``: start two workers that need no torch, print who lives, and wait."""

import os
import time
from multiprocessing import forkserver

from fp_bench.jobs.isolation import WorkerProcess


class Trivial:
    """Answers."""

    def pid(self):
        return os.getpid()

    def environment(self):
        return dict(os.environ)


if __name__ == "__main__":
    workers = [WorkerProcess(Trivial) for _ in range(2)]
    print(*[worker.call("pid") for worker in workers], forkserver._forkserver._forkserver_pid, flush=True)
    time.sleep(600)
