"""What `fpbench tune` found on a pretrained model, as tables made from its published records."""

from dataclasses import dataclass

import yaml

from fp_bench.calibration.tuned import Tuned
from fp_bench.methods.registry import Spec
from fp_bench.records.store import read_run
from fp_bench.sizes import parse_length
from pages.markdown import table
from pages.real_model import METHODS
from pages.tables import RESULTS, measured, number, share, speed_up


@dataclass(frozen=True)
class TunedRun:
    """The settings that a run of `fpbench tune` found.

    Args:
        run: folder of its records and its ``tuned.yaml``, below ``results``.
        length: as on the command line.
        held_out: numbers of the pieces of text on which the settings found were measured again.
        times: folder of times to first token of these settings.
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
        timed = measured(self.times)
        head = ["", "setting found", "kept", "KL, held-out text", "95 %", "first token", "vs dense", "kept when timed"]
        dense = timed.loc[(parse_length(self.length), "dense")]
        rows = [["dense (cuDNN)", "`dense`", "100 %", "0", "", f"{number(dense['ms'])} ms", "1.00x", "100 %"]]
        for each in self.found():
            time = timed.loc[(each.length, each.label)]
            rows.append(
                [
                    METHODS.get(each.method, each.method),
                    f"`{each.label}`",
                    share(each.density or 1.0),
                    f"{each.kl:.4f}",
                    f"{each.kl_low:.4f} to {each.kl_high:.4f}",
                    f"{number(time['ms'])} ms",
                    speed_up(time["speedup_dense"]),
                    share(time["density"]),
                ]
            )
        return table(head, rows, left=2)


MODEL = "real/qwen2.5-coder-1.5b"
TIMES = f"{MODEL}-ttft"
TUNED_NATIVE = TunedRun(f"{MODEL}-tune-32k-kl0.02", "32k", range(16, 24), TIMES)
TUNED = TunedRun(f"{MODEL}-tune-128k-kl0.02", "128k", range(8, 12), TIMES)
TUNED_LOOSE = TunedRun(f"{MODEL}-tune-128k-kl0.05", "128k", range(8, 12), TIMES)
