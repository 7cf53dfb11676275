"""What writes and scores: the pretrained language model."""
