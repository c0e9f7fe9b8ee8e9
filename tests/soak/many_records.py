"""How long `compare` and `report` take on 100,000 records; run by hand: ``python -m tests.soak.many_records``.

It writes made-up latency records (9 methods, 7 lengths, 32 layers, 50 rounds) and accuracy records (8 methods,
5 lengths, 13 tasks, 193 samples), two runs of each, and times the command line on them.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fp_bench.records.record import AccuracyRecord, LatencyRecord
from tests.records.records import ASKED


def latency(draw: random.Random) -> Iterator[Any]:
    """Yield 100,800 records of times with 1 % of noise."""
    for method in range(9):
        label = f"flashprefill:alpha={method / 10}" if method else "dense"
        name = {"method": label.partition(":")[0], "label": label, "method_hash": f"h{method}"}
        for exponent in range(7):
            for layer in range(32):
                length = {"seq_len": 4096 << exponent, "q_len": 4096 << exponent, "layer": layer}
                for number in range(50):
                    ms = (1 + method) * 4**exponent * draw.lognormvariate(0, 0.01)
                    found = {"samples_ms": [ms] * 10, "median_ms": ms, "density": 0.5, "density_by_head": [0.5] * 8}
                    clock = {"timer": "cuda_event", "cache": "cold", "round": number, "status": "ok", "backend": "x"}
                    command = f"fpbench latency --methods {label} --lens {length['seq_len']} --layers {layer}"
                    yield LatencyRecord(**ASKED | name | length | found | clock, recall=0.9, command=command)


def accuracy(draw: random.Random) -> Iterator[Any]:
    """Yield 100,360 records of scores."""
    asked = {"code_version": "1+aaaa", "dtype": "bf16", "model": "embedded", "suite": "ruler", "variant": ""}
    for method in range(8):
        label = f"flashprefill:alpha={method / 10}" if method else "dense"
        name = {"method": label.partition(":")[0], "label": label, "method_hash": f"h{method}", "suite_version": 1}
        for exponent in range(5):
            for task in range(13):
                for sample in range(193):
                    where = {"seq_len": 4096 << exponent, "task": f"t{task}", "sample_id": f"t{task}/{sample}"}
                    score = float(draw.random() < 0.9 - 0.05 * method)
                    found = {"score": score, "prediction": str(score), "density": 1 - method / 10, "recall": 0.9}
                    command = f"fpbench accuracy --methods {label} --tasks t{task} --samples {sample + 1}"
                    tokens = {"prompt_tokens": 4000, "new_tokens": 8, "status": "ok", "command": command}
                    yield AccuracyRecord(**asked | name | where | found | tokens)


def main() -> None:
    """Write the records and print the seconds."""
    with tempfile.TemporaryDirectory() as folder:
        for kind, make in (("latency", latency), ("accuracy", accuracy)):
            runs = []
            for seed in (1, 2):
                runs.append(Path(folder) / f"{kind}-{seed}")
                runs[-1].mkdir()
                lines = [record.model_dump_json(exclude_none=True) for record in make(random.Random(seed))]
                (runs[-1] / "records.jsonl").write_text("\n".join(lines) + "\n")
            for words in (["compare", *runs], ["report", runs[0]]):
                start = time.perf_counter()
                done = subprocess.run([sys.executable, "-m", "fp_bench", *map(str, words)], capture_output=True)
                seconds = round(time.perf_counter() - start, 1)
                found = {"verb": words[0], "kind": kind, "records_a_run": len(lines), "seconds": seconds}
                print(json.dumps(found | {"exit_code": done.returncode}))


if __name__ == "__main__":
    main()
