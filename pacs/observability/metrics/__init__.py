"""Metrics: counts events of all workers, and shows the numbers in the text format of Prometheus."""
