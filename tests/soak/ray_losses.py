"""Lose a place of a local Ray cluster in the middle of a run, then the driver, and compare with an undisturbed run.

python -m tests.soak.ray_losses --job accuracy
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from tests.soak.kill_resume import JOBS, children, identities, lines, start, undisturbed


def keepers(pid):
    """Return the processes of a run that hold a place."""
    return [child for child in children(pid) if b"_Keeper" in command(child)]


def command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def wait_for(running, folder, count):
    while lines(folder) < count:
        assert running.poll() is None, running.communicate()[1]
        time.sleep(0.01)


def ray_is_gone(seconds=30):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(b"raylet" in command(int(p.name)) for p in Path("/proc").iterdir() if p.name.isdigit()):
            return True
        time.sleep(0.1)
    return False


def soak(job, base):
    """Return what went wrong, in words; nothing is fine."""
    run = JOBS[job]
    expected, _ = undisturbed(run, base / "undisturbed")
    shared = replace(run, words=(*run.words, "--ray", "local"))
    folder = base / "ray"
    problems = []

    running = start(shared, folder)
    wait_for(running, folder, 2)
    os.kill(keepers(running.pid)[0], signal.SIGKILL)
    wait_for(running, folder, 4)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    kept = lines(folder)
    if not 4 <= kept < run.whole:
        problems.append(f"{kept} records at the second kill")
    if not ray_is_gone():
        problems.append("Ray outlived its driver")

    running = start(shared, folder)
    wait_for(running, folder, kept + 2)
    os.kill(keepers(running.pid)[0], signal.SIGKILL)
    said = running.communicate()[1]
    if running.returncode != 0:
        problems.append(f"exit {running.returncode}: {said[-500:]}")
    if (found := identities(folder)) != expected:
        problems.append(f"missing {expected - found}, too many {found - expected}")
    print(
        f"{job}: a place lost after 2 records, the driver after {kept}, another place after {kept + 2}; "
        f"{len(found)} of {len(expected)} records at the end"
    )
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", choices=JOBS, default="accuracy")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        problems = soak(asked.job, Path(base))
    print(problems or "fine")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
