"""Mend the commands of published records that `fpbench` refuses; nothing else in them changes.

    python benchmarks/rewrite_commands.py results

Commands on structured inputs name their version, 1, since there is a newer one. Records of a model's time to first
token were written with options of single attention calls (``--shape``, ``--layers``, ``--batch``), which that request
refuses. They are left out; the cell is the same, for the model decides them.
"""

import gzip
import json
import sys
from pathlib import Path

from fp_bench.errors import UsageError
from fp_bench.jobs.request import LatencyRequest, read_command

OF_CALLS = ("--shape", "--batch", "--layers", "--inputs")
"""Options that a prefill of a model has no use for; each has one value."""


FIRST = "--inputs structured:version=1"


def mended(command: str, inputs: str | None = None) -> str:
    """Return a command that is taken for the same cell; one that is taken already stays as it is.

    Args:
        command: of the record.
        inputs: the record's; those of version 1 are called ``structured``.
    """
    if command.startswith("python -m benchmarks."):
        return command
    if inputs == "structured" and FIRST not in command:
        named = command.replace("--inputs structured", FIRST)
        return named if FIRST in named else f"{command} {FIRST}"
    try:
        read_command(command)
    except UsageError:
        words = command.split()
        kept = [word for before, word in zip(["", *words], words, strict=False) if not {before, word} & {*OF_CALLS}]
        asked = read_command(" ".join(kept))
        assert isinstance(asked, LatencyRequest)
        assert asked.model is not None, command
        return asked.command
    return command


def mend_line(line: str) -> str:
    """Return a record's line with its command mended."""
    record = json.loads(line)
    before = record["command"]
    after = mended(before, record.get("input"))
    if after == before:
        return line
    old, new = (f'"command":{json.dumps(text, ensure_ascii=False)}' for text in (before, after))
    assert line.count(old) == 1, line
    return line.replace(old, new)


def mend_file(path: Path) -> int:
    """Mend a file in place, gzipped or not; return how many lines changed."""
    zipped = path.suffix == ".gz"
    data = path.read_bytes()
    lines = (gzip.decompress(data) if zipped else data).decode().splitlines(keepends=True)
    mended_lines = [mend_line(line) for line in lines]
    changed = sum(old != new for old, new in zip(lines, mended_lines, strict=True))
    if changed:
        text = "".join(mended_lines).encode()
        path.write_bytes(gzip.compress(text, mtime=0) if zipped else text)
    return changed


def main(roots: list[str]) -> None:
    """Mend all records below folders."""
    for root in roots:
        for path in sorted(Path(root).rglob("records.jsonl*")):
            if changed := mend_file(path):
                print(f"{path}: {changed} commands")


if __name__ == "__main__":
    main(sys.argv[1:] or ["results"])
