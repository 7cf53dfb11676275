"""Texts to predict, read from the command line, files or tables, and predictions, written as lines."""
