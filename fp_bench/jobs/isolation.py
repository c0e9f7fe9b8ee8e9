"""Worker processes: an exception, a hang, a crash or lack of memory ends only one process."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from fp_bench.errors import UnavailableError, said
from fp_bench.jobs.server import start_server

START_SECONDS = 300.0
"""Time limit of starting a process and importing torch; normally a few seconds."""
LOAD_SECONDS = 3600.0
"""Time limit of loading a model, which may be downloaded first."""
TICK_SECONDS = 0.05
PR_SET_PDEATHSIG = 1


class WorkerLostError(RuntimeError):
    """The process ended during a call: it crashed, or the kernel killed it."""

    def __init__(self, exit_code: int | None, starved: bool) -> None:
        super().__init__(exit_code, starved)
        self.starved = starved
        """Whether the kernel killed a process for lack of memory meanwhile."""

    def __str__(self) -> str:
        code = self.args[0]
        how = f"was killed by {_signal_name(-code)}" if code and code < 0 else f"exited with {code}"
        return f"the worker process {how}{' while the host was out of memory' if self.starved else ''}"


class WorkerHungError(RuntimeError):
    """The call did not return in time, and its process was stopped."""


class Worker:
    """Calls the methods of an object, here in this process, for debuggers: without isolation and timeouts.

    Args:
        make: makes the object.
        *args: for ``make``.
    """

    def __init__(self, make: Callable[..., Any], *args: Any) -> None:
        self._object = make(*args)

    @property
    def pid(self) -> int:
        """The process it lives in."""
        return os.getpid()

    @property
    def is_alive(self) -> bool:
        """Whether it can be called."""
        return True

    def call(self, name: str, *args: Any, timeout: float | None = None, tick: Callable[[], None] | None = None) -> Any:
        """Call a method of the object and return what it returns.

        Args:
            name: of the method.
            *args: its arguments.
            timeout: seconds to wait; None: forever.
            tick: called every `TICK_SECONDS` while waiting.

        Raises:
            WorkerLostError: the process ended.
            WorkerHungError: no answer in time.
            RuntimeError: the method raised.
        """
        del timeout, tick
        return getattr(self._object, name)(*args)

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._object = None


class WorkerProcess(Worker):
    """The object in its own process, which is started at once and not waited for.

    It is forked from a server that has imported the modules of the first ``make``, which takes seconds, and has done
    nothing else: a process that has used a GPU must not fork (`fp_bench.jobs.server`).

    Args:
        make: makes the object; importable by name in the new process. Its attribute ``IMPORTS``, if it has one, names
            further modules for the server.
        *args: for ``make``; they and all arguments and results of calls travel through a pipe.

    Raises:
        UnavailableError: the server ends when it starts.
    """

    def __init__(self, make: Callable[..., Any], *args: Any) -> None:
        self._ready = False
        self._calling = threading.RLock()
        self._pipe, self._process = _started(make, args)

    @property
    def pid(self) -> int:
        """Process id, and that of its group."""
        assert self._process.pid is not None  # it was started
        return self._process.pid

    def call(self, name: str, *args: Any, timeout: float | None = None, tick: Callable[[], None] | None = None) -> Any:
        """Call a method of the object; see `Worker.call`. After an error other than RuntimeError it is closed."""
        with self._calling:
            if not self._ready:
                self._answer(START_SECONDS, None)
                self._ready = True
            with suppress(OSError):  # a process that is gone is noticed below
                self._pipe.send((name, args))
            return self._answer(timeout, tick)

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        # Without a pending call there is nothing to report but its end.
        return not self._pipe.closed and not wait([self._process.sentinel, *[self._pipe] * self._ready], 0)

    def _answer(self, timeout: float | None, tick: Callable[[], None] | None) -> Any:
        deadline = None if timeout is None else time.monotonic() + timeout
        starved_before = _oom_kills()
        try:
            while not wait([self._pipe, self._process.sentinel], TICK_SECONDS if tick or deadline else None):
                if deadline and time.monotonic() > deadline:
                    self.close()
                    raise WorkerHungError(f"no answer within {timeout:g} s; the worker process was stopped")
                if tick:
                    tick()
            ok, value = self._pipe.recv()
        except (EOFError, OSError):
            self.close()
            raise WorkerLostError(self._process.exitcode, starved=_oom_kills() > starved_before) from None
        if not ok:
            raise RuntimeError(value)
        return value

    def close(self) -> None:
        """End the process and its children; callable from any thread, also while another one waits for an answer."""
        if self._pipe.closed:
            return
        below = descendants(self.pid) if self.is_alive else []
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.kill()  # where it does not lead a group yet
        for pid in below:  # where one leads a group of its own
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        # A waiting caller now has its answer, or an error.
        with self._calling:
            self._pipe.close()
            self._process.join(10)


def _started(make: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Connection, BaseProcess]:
    """Start a process of `_serve`, and return the pipe to it; restart a server that has ended, once."""
    context, last = get_context("forkserver"), False
    while True:
        start_server((make.__module__, *getattr(make, "IMPORTS", ())))
        # A server may have forked a process just before its end; that one has a pipe of its own, and ends with it.
        ours, theirs = context.Pipe()
        with theirs:
            process = context.Process(target=_serve, args=(theirs, make, args), daemon=True)
            try:
                process.start()
                return ours, process
            except (OSError, EOFError) as error:
                ours.close()
                if last:
                    raise UnavailableError(
                        f"no worker process can be started: their server ended ({type(error).__name__}); its last "
                        "message is above"
                    ) from None
                last = True
        time.sleep(TICK_SECONDS)  # until the one that ends has ended


def _serve(pipe: Connection, make: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Main loop of the process: make the object, then answer calls until the connection closes."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the server's own
    os.setpgid(0, 0)  # so that `close` reaches children too
    if sys.platform == "linux":
        # The server ends with the run and leaves no hanging worker.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.dup2(2, 1)  # stdout is for results
    served = make(*args)
    with suppress(EOFError, OSError):  # of the other end
        pipe.send((True, None))
        while True:
            name, arguments = pipe.recv()
            try:
                answer = (True, getattr(served, name)(*arguments))
            except Exception as error:
                answer = (False, f"{type(error).__name__}: {said(error)}")
            pipe.send(answer)


def descendants(pid: int) -> list[int]:
    """Return the child processes of a process, if the kernel lists them."""
    found = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(child) for child in tasks.read_text().split()]
    return found + [below for child in found for below in descendants(child)]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _oom_kills() -> int:
    """Return the number of processes that the kernel killed for lack of memory; 0 if unknown."""
    try:
        with open("/proc/vmstat") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0
