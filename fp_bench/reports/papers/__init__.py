"""The papers' figures: published data, our records, and a verdict on each statement."""
