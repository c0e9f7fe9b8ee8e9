"""Disturb short CPU runs at random moments, resume them, and compare with undisturbed ones.

python -m tests.soak.kill_resume --kills 300
python -m tests.soak.kill_resume --kills 100 --victims parent --ways KILL
python -m tests.soak.kill_resume --kills 30 --victims parent --ways FULL

A way is a signal, SIGINT twice, SIGSTOP with SIGCONT later, or FULL: the parent's files may grow no further, as on a
disk that is full, maybe in the middle of a line.
"""

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from uuid import uuid4

from fp_bench.records.store import RECORDS, latest, read_records

MARK = "FPBENCH_SOAK"
"""In the environment of all processes of a run, its own value."""
SHARED = Path("/dev/shm")
GONE_SECONDS = 30.0
"""After the end of a run nothing of it is left."""
POLL_SECONDS = 0.005
PATIENCE = 600.0
"""Longest that a run may take to do anything."""


@dataclass(frozen=True)
class Run:
    """A short run: its words, how many records it writes, and how many places it has."""

    words: tuple[str, ...]
    whole: int
    places: int = 1


def latency_run(methods="dense,flashprefill", lens="128,256", rounds=6, more=("--shape", "2/1/64"), places=1):
    cells = ["--methods", methods, "--lens", lens, "--rounds", str(rounds), "--samples", "1", *more]
    return Run(("latency", *cells), len(methods.split(",")) * len(lens.split(",")) * rounds, places)


def ttft_run(rounds=6, places=1):
    return latency_run(lens="256,400", rounds=rounds, more=("--ttft", "--model", "embedded"), places=places)


def accuracy_run(
    methods="dense,flashprefill", lens="300,400", tasks="fact,needle_number", samples=3, workers=2, places=1
):
    words = ["--suite", "probe", "--methods", methods, "--lens", lens, "--tasks", tasks, "--samples", str(samples)]
    count = len(methods.split(",")) * len(lens.split(",")) * len(tasks.split(",")) * samples
    return Run(("accuracy", *words, "--workers", str(workers)), count, places)


JOBS: dict[str, Callable[[int], Run]] = {
    "latency": lambda places: latency_run(rounds=50, places=places),
    "accuracy": lambda places: accuracy_run(samples=12, workers=places, places=places),
    "ttft": lambda places: ttft_run(rounds=30, places=places),
}
VICTIMS = ("parent", "server", "worker")
WAYS = ("TERM", "HUP", "INT", "STOP", "KILL")
EXITS = {"TERM": {143, -15}, "HUP": {129, -1}, "INT": {130, -2}, "KILL": {-9}, "FULL": {3}}
"""Of a parent: at the start, before anything is written, a signal may end it at once."""


@dataclass
class Outcome:
    """What a soak did, and everything that was wrong."""

    kills: Counter = field(default_factory=Counter)
    """By job, places, victim and way."""
    ends: int = 0
    """Ends of a process of `fpbench`, by a kill or not, after which nothing may be left."""
    torn: int = 0
    """Kills in the middle of a line."""
    runs: int = 0
    """Whole runs compared."""
    wrong: list[str] = field(default_factory=list)


class Started:
    """A run under way in a folder, with a folder of its own for temporary files."""

    def __init__(self, run, folder, *more):
        self.folder, self.mark = folder, uuid4().hex
        self.temporary, self.shared = Path(tempfile.mkdtemp(prefix="soak-")), set(os.listdir(SHARED))
        self.bare = False
        """Whether its server was killed. Once the parent is too, no one is left to remove its folder."""
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  no pipe, which what is left behind would hold open
        module = "fp_bench" if run.places == 1 else "tests.jobs.two_places"
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *run.words, "--out", str(folder), "--retry-failed", *more],
            # torch keeps a cache between runs, by default among the temporary files.
            env=os.environ
            | {MARK: self.mark, "TMPDIR": str(self.temporary), "TORCHINDUCTOR_CACHE_DIR": "/tmp/inductor"},
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            preexec_fn=hear,
        )

    @property
    def said(self):
        self._said.seek(0)
        return self._said.read()

    @property
    def is_running(self):
        return self.process.poll() is None

    def of(self, victim):
        """Return a random process of a kind; None where there is none now."""
        if victim == "parent":
            return self.process.pid
        servers = [child for child in children(self.process.pid, below=False) if b"forkserver" in command(child)]
        found = servers if victim == "server" else [pid for server in servers for pid in children(server, below=False)]
        return random.choice(found) if found else None

    def left(self):
        """Return what is left of it after its end: processes, temporary files, shared memory."""
        until = time.monotonic() + GONE_SECONDS
        while True:
            alive = [f"{pid} {command(pid)[:80]!r}" for pid in marked(self.mark)]
            found = alive + os.listdir(self.temporary) + sorted(set(os.listdir(SHARED)) - self.shared)
            if not found or time.monotonic() > until:
                break
            time.sleep(0.02)
        self._said.close()
        with suppress(OSError):
            self.temporary.rmdir()
        return found


def hear():
    """Hear Ctrl-C and SIGHUP, in a process about to start: a shell in the background, or nohup, has it ignore them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def marked(mark):
    """Return all processes of a run, whoever has adopted them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes() and is_alive(process.name):
                found.append(process.name)
    return found


def identities(folder):
    records = read_records(folder).records
    return Counter((r.cell_key, r.round, r.status, getattr(r, "prediction", None)) for r in records)


def children(pid, below=True):
    """Return the processes that a run, whichever of its threads, started, and what they started."""
    mine = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            mine += [int(child) for child in tasks.read_text().split()]
    return mine + [grand for child in mine for grand in children(child)] * below


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


def on_disk(folder):
    """Return the whole lines, and whether there is a part of one."""
    try:
        whole, _, part = (folder / RECORDS).read_bytes().rpartition(b"\n")
    except OSError:
        return b"", False
    return whole, bool(part)


def wait_for_moment(started, draw, whole, longest):
    """Wait for a random moment: half of them by the clock (imports, planning), half around the writing of records."""
    done = lines(started.folder)
    by_clock = draw.random() < 0.5
    moment = time.monotonic() + draw.uniform(0, longest)
    goal = done + draw.randint(1, max(1, min(20, (whole - done) // 2)))
    while started.is_running and (time.monotonic() < moment if by_clock else lines(started.folder) < goal):
        time.sleep(POLL_SECONDS)
    if not by_clock:
        time.sleep(draw.uniform(0, 0.03))


def disturb(started, victim, way, draw):
    """Disturb a run; return whether there was what to disturb."""
    pid, until = None, time.monotonic() + PATIENCE
    while started.is_running and time.monotonic() < until:
        pid = started.of(victim)
        started.bare = started.bare and started.of("server") is None
        if pid is not None and not (started.bare and victim == "parent" and way in EXITS):
            break
        time.sleep(POLL_SECONDS)
    if pid is None or not started.is_running:
        return False
    try:
        if way == "FULL":
            path = started.folder / RECORDS
            size = (path.stat().st_size if path.exists() else 0) + draw.randint(0, 2000)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, size))
        elif way == "STOP":
            os.kill(pid, signal.SIGSTOP)
            time.sleep(draw.uniform(0, 3))
            os.kill(pid, signal.SIGCONT)
        else:
            number = signal.Signals[f"SIG{way}"]
            os.kill(pid, number)
            if way == "INT":
                time.sleep(draw.uniform(0, 0.3))
                os.kill(pid, number)
        started.bare = started.bare or (victim == "server" and way in ("TERM", "HUP", "KILL"))
    except ProcessLookupError:  # it ended by the first of the two, or is about to be replaced
        return way == "INT"
    return True


def ended(started, outcome, codes):
    """Wait for the end of a run, and note what is left of it, or odd about it."""
    try:
        code = started.process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        outcome.wrong.append(f"{started.folder.name}: does not end: {started.said[-500:]}")
        os.killpg(started.process.pid, signal.SIGKILL)
        code = started.process.wait()
    said = started.said
    outcome.ends += 1
    # Before our front door is imported, Ctrl-C is Python's to answer, which ends by the signal.
    if code not in codes or ("Traceback" in said and code != -signal.SIGINT):
        outcome.wrong.append(f"{started.folder.name}: exit {code}, not {codes}: {said[-2000:]}")
    if " records are kept in " in said and f": {lines(started.folder)} records are kept" not in said:
        outcome.wrong.append(f"{started.folder.name}: keeps {lines(started.folder)} records: {said[-500:]}")
    if left := started.left():
        outcome.wrong.append(f"{started.folder.name}: exit {code} leaves {left}")
    return code


def undisturbed(run, folder):
    """Return what a run writes when nothing kills it, and the seconds it takes."""
    began, outcome, started = time.monotonic(), Outcome(), Started(run, folder, "--no-report")
    ended(started, outcome, {0})
    assert not outcome.wrong, outcome.wrong
    found = identities(folder)
    assert len(found) == found.total() == run.whole, found
    return found, time.monotonic() - began


def identities_of_whole(folder, expected, outcome):
    """Return what a run has measured, newest first where something was tried again; note what it has twice."""
    found = identities(folder)
    if extra := Counter({key: count for key, count in found.items() if key[2] == "ok"}) - expected:
        outcome.wrong.append(f"{folder.name}: twice, or other than undisturbed: {extra}")
    now = {(r.cell_key, r.round, r.status) for r in latest(read_records(folder).records)}
    return Counter({key: count for key, count in found.items() if key[:3] in now})


def soak(run, kills, draw, base, outcome, name, say=print):
    """Disturb runs of one kind in all the ways of ``kills``, resume each, and hold it to an undisturbed one.

    Args:
        run: the kind.
        kills: victims and ways.
        draw: of the moments.
        base: folder for run folders.
        outcome: where to note what was done and found.
        name: of the run folders.
        say: prints a line.
    """
    expected, longest = undisturbed(run, base / f"{name}-undisturbed")
    left, folder, under_way, kept, failures = list(kills), base / f"{name}-0", False, b"", 0
    while left or under_way:
        under_way = True
        started = Started(run, folder, *["--no-report"] * (draw.random() < 0.9))
        codes, way, lasted = {0, 3}, "", False
        while left and way not in EXITS:
            wait_for_moment(started, draw, run.whole, 3 if lasted else longest / 2)
            lasted, (victim, way) = True, left[-1]
            if not disturb(started, victim, way, draw):
                way = ""
                break
            outcome.kills[name, victim, way] += 1
            left.pop()
            if victim != "parent":
                way = ""
        if way in EXITS:
            codes = EXITS[way] | {0, 3}  # too late, maybe
        code = ended(started, outcome, codes)
        whole, torn = on_disk(folder)
        outcome.torn += torn
        if not whole.startswith(kept) or (torn and way != "KILL"):
            outcome.wrong.append(f"{folder.name}: {way} cuts records: {len(kept)} bytes were kept, then {len(whole)}")
        kept = whole
        say(f"{folder.name}: {outcome.kills.total()} kills, {outcome.ends} ends; {outcome.wrong}", flush=True)
        if code not in (0, 3) or (way == "FULL" and code):
            continue
        missing = expected - identities_of_whole(folder, expected, outcome)
        failures = failures + 1 if missing and not left else 0
        if failures > 3:
            outcome.wrong.append(f"{folder.name}: not whole after {failures} runs: {missing}")
        if not missing or failures > 3:
            outcome.wrong += [f"{folder.name}: {path.name} is left" for path in folder.rglob("*.new")]
            outcome.runs, under_way, kept, failures = outcome.runs + 1, False, b"", 0
            folder = base / f"{name}-{outcome.runs}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", default=",".join(JOBS))
    parser.add_argument("--places", default="1,2")
    parser.add_argument("--victims", default=",".join(VICTIMS))
    parser.add_argument("--ways", default=",".join(WAYS))
    asked = parser.parse_args()
    kinds = list(product(asked.jobs.split(","), map(int, asked.places.split(","))))
    deck = list(product(asked.victims.split(","), asked.ways.split(",")))
    draw, outcome = random.Random(asked.seed), Outcome()
    random.seed(asked.seed)
    with tempfile.TemporaryDirectory() as base:
        for number, (job, places) in enumerate(kinds):
            run, name = JOBS[job](places), f"{job}-{places}"
            mine = len(range(number, asked.kills, len(kinds)))
            kills = [deck[(number + n) % len(deck)] for n in range(mine)]
            draw.shuffle(kills)
            soak(run, kills, draw, Path(base), outcome, name)
    for (name, victim, way), count in sorted(outcome.kills.items()):
        print(f"{name} {victim} {way}: {count}")
    print(f"{outcome.kills.total()} kills, {outcome.ends} ends, {outcome.torn} torn lines, {outcome.runs} whole runs")
    print(*outcome.wrong or ["nothing lost, nothing twice, nothing left"], sep="\n")
    sys.exit(bool(outcome.wrong))


if __name__ == "__main__":
    main()
