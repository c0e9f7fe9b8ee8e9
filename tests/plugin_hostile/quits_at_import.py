"""A plug-in that ends whoever imports it, after a word on stdout."""

import sys

print("noise at import")
sys.exit(0)
