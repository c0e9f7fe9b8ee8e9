"""What of README and docs is made from records and code instead of written, and how the site is built."""
