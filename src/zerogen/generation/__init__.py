"""From prompt to pool: contexts, answers, requests, filters, scores, selections."""
