"""The papers' figures again: what they publish as data, our records beside it, and a verdict on each statement."""
