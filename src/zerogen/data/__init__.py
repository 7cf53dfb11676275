"""Rows in and out: records, tables, gold and synthetic data, texts to predict and predictions."""
