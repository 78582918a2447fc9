"""Metrics, data sets, methods to beat and the table that sets them side by side (extra `eval`)."""
