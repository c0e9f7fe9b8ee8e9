"""What `fpbench tune` found on a pretrained model, as tables made from its published records."""

from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from fp_bench.calibration.tuned import Tuned, verdicts
from fp_bench.methods.registry import Spec
from fp_bench.records.store import read_run
from fp_bench.sizes import parse_length
from pages.markdown import table
from pages.real_model import METHODS
from pages.tables import RESULTS, number, share, speed_up


@dataclass(frozen=True)
class TunedRun:
    """The settings that a run of `fpbench tune` found.

    Args:
        run: folder of its records and its ``tuned.yaml``, below ``results``.
        length: as on the command line.
        held_out: numbers of the pieces of text on which the settings found were measured again.
    """

    run: str
    length: str
    held_out: range

    def found(self) -> list[Tuned]:
        """Return dense attention and the settings found, the fastest first token first."""
        folder = RESULTS / self.run
        records = read_run(folder).records
        labels = yaml.safe_load((folder / "tuned.yaml").read_text())["methods"][self.length]
        specs = map(Spec.parse, labels)
        found = [Tuned.of(spec.name, parse_length(self.length), spec, records, self.held_out) for spec in specs]
        return sorted(found, key=lambda each: each.ttft_ms or 0.0)

    def markdown(self) -> str:
        """Return a row per method: its setting, what it loses on held-out text, and its times."""
        found = self.found()
        dense = next(each for each in found if each.method == "dense")
        head = ["", "setting", "KL, held-out text", "95 %", "kept", "attention", "first token", "vs dense", "verdict"]
        rows = []
        for each, verdict in zip(found, verdicts(found), strict=True):
            interval = "" if each.kl_low is None else f"{each.kl_low:.3f} to {each.kl_high:.3f}"
            rows.append(
                [
                    METHODS.get(each.method, each.method),
                    f"`{each.label}`",
                    f"{each.kl or 0.0:.3f}",
                    interval,
                    share(each.density or 0.0),
                    milliseconds(each.attention_ms),
                    milliseconds(each.ttft_ms),
                    speed_up((dense.ttft_ms or 0.0) / each.ttft_ms) if each.ttft_ms else "",
                    verdict,
                ]
            )
        return table(head, rows, left=2)


def milliseconds(value: float | None) -> str:
    """Return ``3.36 ms``, or nothing if it is unknown."""
    return "" if value is None else f"{number(value)} ms"


def beside(runs: Sequence[TunedRun]) -> str:
    """Return a row per method of the first run, with a group of columns for each run."""
    found = [{each.method: each for each in run.found()} for run in runs]
    head = [""]
    for run in runs:
        name = run.length.upper()
        head += [f"{name}: setting", "KL", "kept", "attention", "first token"]
    rows = []
    for method in found[0]:
        row = [METHODS.get(method, method)]
        for of_run in found:
            row += _cells(of_run.get(method))
        rows.append(row)
    return table(head, rows, left=2)


def _cells(each: Tuned | None) -> list[str]:
    if each is None:
        return [""] * 5
    setting = (each.label or "").partition(":")[2]
    cost = ["0", "100 %"] if each.method == "dense" else [f"{each.kl or 0.0:.3f}", share(each.density or 0.0)]
    return [f"`{setting}`" if setting else "", *cost, milliseconds(each.attention_ms), milliseconds(each.ttft_ms)]
