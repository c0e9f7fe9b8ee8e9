"""The kernels that stand for ``dense:impl=auto``: each is decided once, and all calls that share them follow."""

from collections.abc import Callable, Mapping


class DenseKernels:
    """Kernels of dense attention by the kind of call for which each was decided; every call of a run gets this object.

    A process decides only on kinds of calls for which its run has no decision yet (`follow`).
    """

    def __init__(self) -> None:
        self._decided: dict[str, str] = {}
        self.used: dict[str, str] = {}
        """Those used since the last `follow`."""

    def kernel(self, kind: str, decide: Callable[[], str]) -> str:
        """Return the kernel of a kind of call; ``decide`` finds it if there is no decision."""
        if kind not in self._decided:
            self._decided[kind] = decide()
        self.used[kind] = self._decided[kind]
        return self._decided[kind]

    def follow(self, decided: Mapping[str, str]) -> bool:
        """Take the decisions of the run; return whether one of this process was another."""
        other = any(self._decided.get(kind, kernel) != kernel for kind, kernel in decided.items())
        self._decided.update(decided)
        self.used = {}
        return other
