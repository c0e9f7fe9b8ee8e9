"""The server that worker processes are forked from: started with a safe path, and gone when this process is.

It is Python's own fork server, which alone would live as long as any worker does: see `fp_bench.jobs.served`.
"""

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker, util

OWNER = "FPBENCH_WORKERS_OF"
"""In the environment of the server: the process that started it, and the folder of its socket."""
LONGEST_FOLDER = 60
"""The name of a socket has 107 bytes."""
_starting = threading.Lock()


def start_server(imports: Sequence[str]) -> None:
    """Start the server unless it runs.

    Args:
        imports: modules that it imports, so that no worker has to.
    """
    resource_tracker.ensure_running()  # which the server's start would do, and then let signals through
    with _starting, _no_interrupts():
        folder = _temporary_folder()
        # Otherwise the working directory would come first on its path, and a file there named as a module of Python.
        path = os.pathsep.join(filter(None, sys.path))
        with _environment({"PYTHONSAFEPATH": "1", "PYTHONPATH": path, OWNER: f"{os.getpid()} {folder}"}):
            forkserver.set_forkserver_preload(["fp_bench.jobs.served", *imports])
            forkserver.ensure_running()


def _temporary_folder() -> str:
    """Return the folder of multiprocessing's sockets, elsewhere where TMPDIR is too long for one."""
    before = tempfile.tempdir
    if len(os.fsencode(tempfile.gettempdir())) > LONGEST_FOLDER:
        tempfile.tempdir = "/tmp"
    try:
        return str(util.get_temp_dir())
    finally:
        tempfile.tempdir = before


@contextmanager
def _environment(more: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Start a process with Ctrl-C blocked in it and all it forks: it is the parent's to handle, which gets it later."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
