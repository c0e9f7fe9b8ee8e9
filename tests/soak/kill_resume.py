"""Kill a short CPU run at random moments, resume it each time, and compare with an undisturbed run.

python -m tests.soak.kill_resume --kills 100 --job accuracy
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fp_bench.records.store import RECORDS, read_records


@dataclass(frozen=True)
class Run:
    """A short run: its words, and how many records it writes."""

    words: tuple[str, ...]
    whole: int


def latency_run(methods="dense,flashprefill", lens="128,256", rounds=6):
    cells = ["--methods", methods, "--lens", lens, "--rounds", str(rounds), "--shape", "2/1/64", "--samples", "1"]
    return Run(("latency", *cells), len(methods.split(",")) * len(lens.split(",")) * rounds)


def accuracy_run(methods="dense,flashprefill", lens="300,400", tasks="fact,needle_number", samples=3, workers=2):
    words = ["--suite", "probe", "--methods", methods, "--lens", lens, "--tasks", tasks, "--samples", str(samples)]
    count = len(methods.split(",")) * len(lens.split(",")) * len(tasks.split(",")) * samples
    return Run(("accuracy", *words, "--workers", str(workers)), count)


JOBS = {"latency": latency_run(), "accuracy": accuracy_run()}


@dataclass
class Outcome:
    """What a soak found; all lists but ``kept`` are to be empty."""

    kills: int = 0
    runs: int = 0
    kept: list[int] = field(default_factory=list)
    """Whole records on disk at each kill."""
    torn: int = 0
    wrong_sets: list[str] = field(default_factory=list)
    failed_exits: list[str] = field(default_factory=list)
    left_behind: list[int] = field(default_factory=list)
    """Worker processes that outlived the kill."""

    @property
    def fine(self):
        return not (self.wrong_sets or self.failed_exits or self.left_behind)


def start(run, folder):
    command = [sys.executable, "-m", "fp_bench", *run.words, "--out", str(folder)]
    return subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def identities(folder):
    records = read_records(folder).records
    return Counter((r.cell_key, r.round, r.status, getattr(r, "prediction", None)) for r in records)


def children(pid):
    """Return the worker processes of a run, and what they started, whichever of its threads did."""
    mine = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            mine += [int(child) for child in tasks.read_text().split()]
    return mine + [grand for child in mine for grand in children(child)]


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def lines(folder):
    try:
        return (folder / RECORDS).read_bytes().count(b"\n")
    except OSError:
        return 0


def kill_at_random(run, folder, draw, longest):
    """Start a run, kill it but for its children; return whether it lived long enough, and what it left running.

    Args:
        run: what to start.
        folder: where.
        draw: of the moment.
        longest: seconds of an undisturbed run; None kills around the writing of records only.
    """
    running = start(run, folder)
    done = lines(folder)
    # Half of the kills by the clock (imports, planning, start of workers), half around the writing of records.
    by_clock = longest is not None and draw.random() < 0.5
    moment = time.monotonic() + draw.uniform(0, longest or 0)
    goal = done + draw.randint(1, max(1, (run.whole - done) // 2))
    while running.poll() is None and (time.monotonic() < moment if by_clock else lines(folder) < goal):
        time.sleep(0.001)
    if not by_clock:
        time.sleep(draw.uniform(0, 0.03))
    workers = children(running.pid)
    killed = running.poll() is None
    if killed:
        running.kill()
    complaint = running.communicate()[1]
    deadline = time.monotonic() + 10
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return killed, running.returncode, complaint, [pid for pid in workers if is_alive(pid)]


def undisturbed(run, folder):
    """Return what a run writes when nothing kills it, and the seconds it takes."""
    began = time.monotonic()
    running = start(run, folder)
    said = running.communicate()[1]
    assert running.returncode == 0, said
    return identities(folder), time.monotonic() - began


def soak(kills, seed, base, run, say=print):
    """Kill ``kills`` times in as many runs as that takes, and let the last one end."""
    draw, outcome = random.Random(seed), Outcome()
    expected, longest = undisturbed(run, base / "undisturbed")
    assert len(expected) == sum(expected.values()) == run.whole, expected
    folder = base / "run-0"
    while True:
        if outcome.kills < kills:
            killed, code, said, left = kill_at_random(run, folder, draw, longest)
        else:
            last = start(run, folder)
            said = last.communicate()[1]
            killed, code, left = False, last.returncode, []
        outcome.left_behind += left
        if killed:
            outcome.kills += 1
            path = folder / RECORDS
            outcome.kept.append(lines(folder))
            outcome.torn += path.exists() and not path.read_bytes().endswith((b"\n", b"")[path.stat().st_size == 0])
            continue
        outcome.runs += 1
        if code != 0:
            outcome.failed_exits.append(f"{folder.name}: exit {code}: {said[-500:]}")
        if (found := identities(folder)) != expected:
            outcome.wrong_sets.append(f"{folder.name}: missing {expected - found}, too many {found - expected}")
        say(f"{folder.name} ended after {outcome.kills} kills so far: {'fine' if outcome.fine else outcome}")
        if outcome.kills >= kills:
            return outcome
        folder = base / f"run-{outcome.runs}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--job", choices=JOBS, default="latency")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        outcome = soak(asked.kills, asked.seed, Path(base), JOBS[asked.job])
    print(outcome)
    sys.exit(not outcome.fine)


if __name__ == "__main__":
    main()
