"""Comparisons that anyone can run; figures in docs/benchmarks.md."""
