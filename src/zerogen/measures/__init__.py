"""Measures of synthetic rows, and how they are stored beside a run."""
