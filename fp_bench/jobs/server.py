"""The server from which worker processes are forked: it has a safe path and ends with this process.

It is Python's fork server, which would otherwise live as long as any worker: see `fp_bench.jobs.served`.
"""

import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker, util

TOLD = "FPBENCH_SERVER"
"""Variables for the server: its parent, the folder of its socket, and its environment."""
LONGEST_FOLDER = 60
"""Longest name of a socket, in bytes."""
_starting = threading.Lock()


def start_server(imports: Sequence[str]) -> None:
    """Start the server unless it runs.

    Args:
        imports: modules that it imports once for all workers.
    """
    with _starting:
        folder = _temporary_folder()
        # Otherwise the working directory would be first on its path, and files there could shadow Python's modules.
        path = os.pathsep.join(filter(None, sys.path))
        safe = {"PYTHONSAFEPATH": "1", "PYTHONPATH": path}
        told = json.dumps([os.getpid(), folder, {name: os.environ.get(name) for name in safe}])
        with _environment(safe | {TOLD: told}):
            resource_tracker.ensure_running()  # which the server's start would do too, and then let signals through
            with _no_interrupts():
                forkserver.set_forkserver_preload(["fp_bench.jobs.served", *imports])
                forkserver.ensure_running()


def _temporary_folder() -> str:
    """Return the folder of multiprocessing's sockets; another one if TMPDIR is too long."""
    before = tempfile.tempdir
    if len(os.fsencode(tempfile.gettempdir())) > LONGEST_FOLDER:
        tempfile.tempdir = "/tmp"
    try:
        return str(util.get_temp_dir())
    finally:
        tempfile.tempdir = before


@contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in more}
    set_environment(more)
    try:
        yield
    finally:
        set_environment(before)


def set_environment(variables: Mapping[str, str | None]) -> None:
    """Set variables of this process's environment; None removes one."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Start a process with Ctrl-C blocked in it and its children, because the parent handles it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
