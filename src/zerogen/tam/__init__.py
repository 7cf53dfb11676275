"""What learns: the tiny task models, their heads and losses."""
