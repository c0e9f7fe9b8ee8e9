"""Worker processes: what raises, hangs, crashes or exhausts memory in one ends that process alone."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.forkserver import ensure_running
from typing import Any, Protocol

START_SECONDS = 300.0
"""Longest time that starting a process and importing torch may take; ordinary is a few seconds."""
LOAD_SECONDS = 3600.0
"""Loading a model may take this long: it may be fetched first."""
TICK_SECONDS = 0.05
PR_SET_PDEATHSIG = 1


class WorkerLostError(RuntimeError):
    """The process ended in the middle of a call: a crash, or the kernel killed it."""

    def __init__(self, exit_code: int | None, starved: bool) -> None:
        super().__init__(exit_code, starved)
        self.starved = starved
        """Whether the kernel killed a process for memory meanwhile."""

    def __str__(self) -> str:
        code = self.args[0]
        how = f"was killed by {_signal_name(-code)}" if code and code < 0 else f"exited with {code}"
        return f"the worker process {how}{' while the host was out of memory' if self.starved else ''}"


class WorkerHungError(RuntimeError):
    """The call did not return in time, and its process was ended."""


class Worker(Protocol):
    """Calls the methods of one object that lives elsewhere."""

    @property
    def pid(self) -> int:
        """The process it lives in."""
        ...

    def call(self, name: str, *args: Any, timeout: float | None = None, tick: Callable[[], None] | None = None) -> Any:
        """Call a method of the object and return what it returns.

        Args:
            name: of the method.
            *args: its arguments.
            timeout: seconds to wait; None for ever.
            tick: called every `TICK_SECONDS` while waiting.

        Raises:
            WorkerLostError: the process ended.
            WorkerHungError: no answer in time.
            RuntimeError: the method raised.
        """
        ...

    def close(self) -> None:
        """End it, whatever it is doing."""
        ...


class LocalWorker:
    """The object in this process: for debuggers and profilers. Nothing is isolated, no timeout is kept."""

    def __init__(self, make: Callable[..., Any], *args: Any) -> None:
        self._object = make(*args)

    @property
    def pid(self) -> int:
        """This process."""
        return os.getpid()

    def call(self, name: str, *args: Any, timeout: float | None = None, tick: Callable[[], None] | None = None) -> Any:
        """Call a method of the object."""
        del timeout, tick
        return getattr(self._object, name)(*args)

    def close(self) -> None:
        """Forget the object."""
        self._object = None


class WorkerProcess:
    """The object in a process of its own, which is started at once and not waited for.

    It is forked from a server that has imported what the first ``make`` needs, which takes seconds, and has done
    nothing else: what has used a GPU must not fork.

    Args:
        make: makes the object; importable by name in the new process. Its attribute ``IMPORTS``, if it has one, names
            modules for the server beside its own.
        *args: for ``make``; they and all arguments and results of calls travel through a pipe.
    """

    def __init__(self, make: Callable[..., Any], *args: Any) -> None:
        context = get_context("forkserver")
        context.set_forkserver_preload([make.__module__, *getattr(make, "IMPORTS", ())])
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, args), daemon=True)
        self._ready = False
        with _no_interrupts():
            ensure_running()
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """Its process id, and that of its group."""
        assert self._process.pid is not None  # it was started
        return self._process.pid

    def call(self, name: str, *args: Any, timeout: float | None = None, tick: Callable[[], None] | None = None) -> Any:
        """Call a method of the object; see `Worker.call`. After an error other than RuntimeError it is closed."""
        if not self._ready:
            self._answer(START_SECONDS, None)
            self._ready = True
        with suppress(BrokenPipeError):  # a process that is gone is noticed below
            self._pipe.send((name, args))
        return self._answer(timeout, tick)

    def _answer(self, timeout: float | None, tick: Callable[[], None] | None) -> Any:
        deadline = None if timeout is None else time.monotonic() + timeout
        starved_before = _oom_kills()
        while not wait([self._pipe, self._process.sentinel], TICK_SECONDS if tick or deadline else None):
            if deadline and time.monotonic() > deadline:
                self.close()
                raise WorkerHungError(f"no answer within {timeout:g} s; the worker process was ended")
            if tick:
                tick()
        try:
            ok, value = self._pipe.recv()
        except (EOFError, OSError):
            self.close()
            raise WorkerLostError(self._process.exitcode, starved=_oom_kills() > starved_before) from None
        if not ok:
            raise RuntimeError(value)
        return value

    def close(self) -> None:
        """End the process and its children."""
        if self._pipe.closed:
            return
        self._pipe.close()
        # Before the process is waited for, so that its number cannot be another's yet.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.kill()  # where it did not lead a group of its own yet
        self._process.join(10)


def _serve(pipe: Connection, make: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Run in the process: make the object, then answer calls until the other end is gone."""
    os.setpgid(0, 0)  # so that `close` reaches children too
    if sys.platform == "linux":
        # A killed parent closes no worker that hangs.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.dup2(2, 1)  # stdout is for results
    served = make(*args)
    pipe.send((True, None))
    while True:
        try:
            name, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = (True, getattr(served, name)(*arguments))
        except Exception as error:
            answer = (False, f"{type(error).__name__}: {error}")
        pipe.send(answer)


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Start a process with Ctrl-C blocked in it and all it forks: it is the parent's to handle, which gets it later."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _oom_kills() -> int:
    """Return how many processes the kernel has killed for memory; 0 where it does not say."""
    try:
        with open("/proc/vmstat") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0
