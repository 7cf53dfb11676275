"""One run: its setting, its identity, its result, and what it leaves in its folder."""
