"""The tiny task models (TAMs), which learn: their kinds, heads, losses and training."""
