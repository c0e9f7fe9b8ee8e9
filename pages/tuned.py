"""What `fpbench tune` found on a pretrained model, as tables made from its published records."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from fp_bench.calibration.tuned import Tuned
from fp_bench.methods.registry import Spec
from fp_bench.records.store import read_run
from fp_bench.sizes import parse_length
from pages.markdown import table
from pages.real_model import METHODS
from pages.tables import RESULTS, measured, number, share, speed_up, spread

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class TunedRun:
    """The settings that a run of `fpbench tune` found.

    Args:
        run: folder of its records and its ``tuned.yaml``, below ``results``.
        length: as on the command line.
        held_out: numbers of the pieces of text on which the settings found were measured again.
        times: folder of times to first token of these settings, on the text that was searched.
    """

    run: str
    length: str
    held_out: range
    times: str

    def found(self) -> list[Tuned]:
        """Return the settings found, the sparsest first."""
        folder = RESULTS / self.run
        records = read_run(folder).records
        labels = yaml.safe_load((folder / "tuned.yaml").read_text())["methods"][self.length]
        specs = [spec for spec in map(Spec.parse, labels) if spec.name != "dense"]
        found = [Tuned.of(spec.name, parse_length(self.length), spec, records, self.held_out) for spec in specs]
        return sorted(found, key=lambda each: each.density or 1.0)

    def markdown(self) -> str:
        """Return a row per method: its setting, its loss on held-out text, and its time to first token."""
        head = ["", "setting found", "kept", "KL, held-out text", "95 %", "first token", "vs dense", "kept when timed"]
        rows = [["dense (cuDNN)", "`dense`", "100 %", "0", "", *self._time("dense"), "100 %"]]
        for each in self.found():
            loss = [f"{each.kl:.4f}", f"{each.kl_low:.4f} to {each.kl_high:.4f}"]
            timed = [*self._time(f"{each.label}"), share(self._timed(f"{each.label}")["density"])]
            rows.append([_name(each), f"`{each.label}`", share(each.density or 1.0), *loss, *timed])
        return table(head, rows, left=2)

    def fastest_first(self) -> list[list[str]]:
        """Return a row per method for the README, with the time of its attention; the fastest first."""
        found = sorted(self.found(), key=lambda each: float(self._timed(f"{each.label}")["ms"]))
        losses = [(_name(each), f"{each.label}", f"{each.kl:.3f}") for each in found] + [
            ("dense (cuDNN)", "dense", "0")
        ]
        rows = []
        for name, label, kl in losses:
            timed = self._timed(label)
            attention = f"{number(timed['attention_ms'])} ms"
            kept = share(timed["density"])
            row = [self.length.upper(), name, f"`{label}`", kl, kept, attention, *self._time(label)]
            rows.append([*row, spread(timed["spread"])])
        return rows

    def _timed(self, label: str) -> "pd.Series[Any]":
        return measured(self.times).loc[(parse_length(self.length), label)]

    def _time(self, label: str) -> tuple[str, str]:
        """Return time to first token and speed-up."""
        timed = self._timed(label)
        return f"{number(timed['ms'])} ms", "1.00x" if label == "dense" else speed_up(timed["speedup_dense"])


def _name(each: Tuned) -> str:
    return METHODS.get(each.method, each.method)


def front_page(runs: Sequence[TunedRun]) -> str:
    """Return the README's table of several lengths."""
    head = ["length", "method", "setting found", "KL", "kept", "attention", "first token", "vs dense", "spread"]
    return table(head, [row for run in runs for row in run.fastest_first()], left=3)


MODEL = "real/qwen2.5-coder-1.5b"
TEXT = f"{MODEL}-ttft-text"
"""Times to first token on the texts that were searched."""
NATIVE, LONG = range(16, 24), range(8, 12)
"""Numbers of the held-out pieces, 32K and 128K."""
TUNED_NATIVE = TunedRun(f"{MODEL}-tune-32k-kl0.02", "32k", NATIVE, TEXT)
TUNED_NATIVE_LOOSE = TunedRun(f"{MODEL}-tune-32k-kl0.05", "32k", NATIVE, f"{MODEL}-tune-32k-kl0.05")
TUNED = TunedRun(f"{MODEL}-tune-128k-kl0.02", "128k", LONG, TEXT)
TUNED_LOOSE = TunedRun(f"{MODEL}-tune-128k-kl0.05", "128k", LONG, TEXT)
