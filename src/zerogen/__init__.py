"""zerogen: train a small text classifier on what a language model writes from prompts."""

__version__ = "0.1.0"
