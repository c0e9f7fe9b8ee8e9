"""A plug-in of methods that take their process with them, or never come back."""
# ruff: noqa: ARG002

import os
import signal
import time

from fp_bench.methods.dense import Dense


class Crashes(Dense):
    name = "crashes"

    def attend(self, call, index):
        os.kill(os.getpid(), signal.SIGSEGV)


class Exits(Dense):
    name = "exits"

    def attend(self, call, index):
        os._exit(7)


class Hangs(Dense):
    name = "hangs"

    def attend(self, call, index):
        time.sleep(3600)


class HangsLater(Dense):
    """Passes its check, which calls it twice, then hangs."""

    name = "hangs_later"
    calls = 0

    def attend(self, call, index):
        self.calls += 1
        if self.calls > 2:
            time.sleep(3600)
        return super().attend(call, index)


class Prints(Dense):
    """Writes to stdout, as code left from debugging does."""

    name = "prints"

    def attend(self, call, index):
        print("noise from a plug-in")
        return super().attend(call, index)


class TooBig(Dense):
    """Out of memory from 256 tokens on."""

    name = "too_big"

    def attend(self, call, index):
        if call.kv_len >= 256:
            raise MemoryError(f"{call.kv_len} tokens are too many")
        return super().attend(call, index)


class KillsServer(Dense):
    """Kills the process that workers are forked from, and with it all of them."""

    name = "kills_server"

    def attend(self, call, index):
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
