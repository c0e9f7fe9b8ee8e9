"""Places that are lost when a test says so."""

from fp_bench.jobs.machine import Machine
from fp_bench.jobs.places import Place, PlaceLostError


class Shaky:
    """A place of this machine that is lost at some of its calls.

    Args:
        losses: numbers of the calls, from 1, at which it is.
        replacements: how many other devices there are to move to.
    """

    own_cores = False

    def __init__(self, losses, replacements=99):
        self.machine = Machine.here()
        self.environment = Place.of(self.machine).environment
        self._losses = set(losses)
        self._replacements = replacements
        self._calls = 0
        self._device = 0
        self._gone = -1

    def run(self, function, /, *args, **more):
        return function(*args, **more)

    def open(self, make, /, *args, **more):
        return _Watched(self, self._device, make(*args, **more))

    def replace(self, lost):
        if lost.device != self._device:
            return  # another worker moved on already
        if not self._replacements:
            raise lost
        self._replacements -= 1
        self._device += 1

    def called(self, device):
        self._calls += 1
        if self._calls in self._losses:
            self._gone = self._device
        if device <= self._gone:
            raise PlaceLostError("the machine is gone", device)


class _Watched:
    def __init__(self, place, device, made):
        self._place, self._device, self._made = place, device, made

    def __getattr__(self, name):
        def call(*args, **more):
            if name != "close":
                self._place.called(self._device)
            return getattr(self._made, name)(*args, **more)

        return call
