"""Generated parts of README and docs, and the site's build."""
