"""Plain English of the pages: ``python -m pages.words`` lists what to change, and ends with 1 if there is anything.

proselint applies its own checks and `RULES`, the phrases that this project overused. Code in pages is not read.
"""

import re
import sys
from pathlib import Path

from proselint.checks import __register__
from proselint.config import DEFAULT, Config
from proselint.registry import CheckRegistry
from proselint.registry.checks import Check, types
from proselint.tools import LintFile

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("fp_bench/models/*/*.md")]
RULES = {
    r"(is|are|and) said": "name who reports it, or write 'reported'",
    r"(is|are) told": "name who tells whom",
    r"what is odd|odd (ones|heads)": "name the property, e.g. 'if head_dim is not 64, 128 or 256'",
    r"but for": "write 'except'",
    r"left it at that": "say what happens",
    r"foret(ell|old)s?": "write 'predict'",
    r"go(es)? on": "write 'continue'",
    r"(has|have) no say": "write 'does not influence'",
    r"a line each|one a (line|layer|head|round|cell)": "write 'one per line'",
    r"(is|are) none": "write 'no' or 'not' before a noun",
    r"of before": "write 'older'",
    r"at hand": "write 'available' or 'installed'",
    r"(is|are|be) passed over": "write 'skip' or 'ignore'",
    r"mend(ed|s)?": "write 'repair' or 'fix'",
    r"every verb|this verb|verbs": "write 'command'",
    r"longer than all else": "name what is compared",
}
"""Pattern -> what to do."""
LEFT_OUT = dict.fromkeys(("typography", "dates_times", "cliches", "lexical_illusions", "misc.capitalization"), False)
"""Checks of proselint that tables and commands fail."""
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`|<!--.*?-->|\]\([^)\s]+\)", flags=re.DOTALL | re.MULTILINE)


def prose(text: str) -> str:
    """Return a page with its code and links blanked, so that places stay the same."""
    return CODE.sub(lambda code: re.sub(r"\S", " ", code[0]), text)


def complaints() -> list[str]:
    """Return one line for each phrase to change."""
    ours = [
        Check(types.ExistenceSimple(rf"(?i)\b({pattern})\b"), path="house", message=advice)
        for pattern, advice in RULES.items()
    ]
    CheckRegistry().register_many((*__register__, *ours))
    checks = LEFT_OUT | {name: on for name, on in DEFAULT["checks"].items() if name not in LEFT_OUT} | {"house": True}
    found = []
    for page in PAGES:
        text = prose(page.read_text())
        for result in LintFile(page.name, text).lint(Config(max_errors=1000, checks=checks)):
            start, end = result.check_result.span
            words = " ".join(f"\n{text}"[start:end].split())
            found.append(f"{page.relative_to(ROOT)}:{result.pos[0] - 1}: {words!r}: {result.check_result.message}")
    return found


if __name__ == "__main__":
    lines = complaints()
    print(*lines, sep="\n")
    sys.exit(bool(lines))
