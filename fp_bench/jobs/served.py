"""Imported first, and only, by the server of worker processes: ends it when its owner has ended.

Each worker inherits the pipe by which Python's fork server sees that it is needed. Therefore the server checks every
second whether the process that started it exists, also during its imports, which take seconds. Its end kills its
workers.
"""

import atexit
import json
import os
import shutil
import signal
import sys
from types import TracebackType
from typing import Any

from fp_bench.jobs.server import TOLD, set_environment

if TOLD not in os.environ:  # Python itself replaces a server that was killed just now, without what ours is told
    os._exit(1)
_owner, _folder, _environment = json.loads(os.environ.pop(TOLD))
set_environment(_environment)


def _look(*_: Any) -> None:
    if os.getppid() != _owner:
        shutil.rmtree(_folder, ignore_errors=True)
        os._exit(0)


def _say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    # An owner that ends while starting a worker breaks the connection; ignore it.
    if not isinstance(error, OSError | EOFError):
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _say
atexit.register(_look)  # its workers may have noticed first, and Python's server ends with the last of them
signal.signal(signal.SIGALRM, _look)
signal.setitimer(signal.ITIMER_REAL, 1.0, 1.0)
