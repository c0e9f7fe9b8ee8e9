"""``python -m training.inputs targets|fit|table``: the strengths of structured inputs, from real models.

``targets`` reads published records and captures, ``fit`` searches the strengths and writes them into the package,
``table`` prints what methods keep of real models beside what they keep of structured inputs.
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from fp_bench.inputs import structured
from fp_bench.inputs.structured import VERSION, Strengths, strengths_of
from fp_bench.sizes import format_length, parse_lengths
from pages import markdown
from training.inputs.fit import Cells, fit, measure
from training.inputs.observe import Kept
from training.inputs.targets import (
    FURTHER,
    METHODS,
    of_capture,
    of_records,
    read_targets,
    wanted,
    write_targets,
)

RESULTS = Path(__file__).parents[2] / "results" / "real"
RUNS = {"qwen2.5-coder-1.5b": "novels", "qwen2.5-coder-1.5b-mixed": "novels and code in turns"}
"""Published runs whose records are targets, and what the model read in them."""
STRENGTHS = Path(structured.__file__).with_name(f"structured-{VERSION}.json")


def main(words: Sequence[str] | None = None) -> None:
    """Do what the command line asks for."""
    asked = _parser().parse_args(words)
    if asked.device == "cpu":
        torch.set_num_threads(1)
    if asked.what == "targets":
        found = [target for run, text in RUNS.items() for target in of_records(RESULTS / run, text)]
        for capture in asked.captures:
            folder, _, text = capture.partition("=")
            found += of_capture(Path(folder), text, parse_lengths(asked.lens))
            write_targets(found)
        write_targets(found)
        return
    cells = wanted(read_targets(), parse_lengths(asked.lens), [*METHODS, *FURTHER])
    heads = tuple(map(int, asked.shape.split("/")))
    assert len(heads) == 3, asked.shape

    def keep(strengths: Strengths) -> Cells:
        return measure(strengths, cells, heads=heads, device=torch.device(asked.device), seed=asked.seed)

    if asked.what == "fit":
        found_strengths = fit(strengths_of(VERSION), cells, keep, most=asked.steps, said=partial(print, flush=True))
        STRENGTHS.write_text(written(found_strengths))
    else:
        print(table(cells, keep(strengths_of(VERSION))))


def written(strengths: Strengths) -> str:
    """Return the file of some strengths, a line each."""
    lines = (f' "{name}": {json.dumps(value)}' for name, value in strengths.model_dump(mode="json").items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def table(real: Cells, made: Cells) -> str:
    """Return a Markdown table of real models' cells and structured inputs', with what misses by more than a third."""
    head = ["length", "method", "real: kept", "structured: kept", "real: mass", "structured: mass"]
    order = [*METHODS, *FURTHER]
    rows = [
        [format_length(length), f"`{method}`", *_beside(one, made[length, method])]
        for (length, method), one in sorted(real.items(), key=lambda cell: (cell[0][0], order.index(cell[0][1])))
    ]
    return markdown.table(head, rows, left=2)


def _beside(real: Kept, made: Kept) -> list[str]:
    off = made.density / real.density
    note = "" if 2 / 3 <= off <= 4 / 3 else f" ({off:.2f}x)"
    return [f"{real.density:.1%}", f"{made.density:.1%}{note}", f"{real.recall:.1%}", f"{made.recall:.1%}"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.inputs", description=__doc__)
    parser.add_argument("what", choices=["targets", "fit", "table"])
    parser.add_argument("captures", nargs="*", help="for targets: FOLDER=TEXT, a capture and what was read")
    parser.add_argument("--lens", default="8k,16k,32k,128k", help="lengths, as for fpbench latency")
    parser.add_argument("--shape", default="16/4/128", help="query heads, KV heads, head_dim of structured inputs")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=4, help="most steps of the fit")
    parser.add_argument("--seed", type=int, default=0, help="of structured inputs")
    return parser


if __name__ == "__main__":
    main()
