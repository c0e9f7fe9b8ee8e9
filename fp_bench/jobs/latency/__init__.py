"""The latency job: plan the cells, measure each, write its records."""
