"""Measures of synthetic rows (diversity, correctness, confidence), and the evaluator that some of them need."""
