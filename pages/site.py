"""A hook of mkdocs: the site uses the repository's pages in place, so links work in both."""

import shutil
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig

ROOT = Path(__file__).parents[1]
SHOWN = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks",
    "docs",
    "examples",
    "fp_bench/models/embedded/README.md",
    "results",
)
"""Pages, and folders of pages and linked files."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Point mkdocs to a folder of links to these pages."""
    pages = ROOT / "build" / "pages"
    shutil.rmtree(pages, ignore_errors=True)
    for name in SHOWN:
        (pages / name).parent.mkdir(parents=True, exist_ok=True)
        (pages / name).symlink_to(ROOT / name)
    config.docs_dir = str(pages)
    return config
