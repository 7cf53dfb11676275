"""The pretrained language model (PLM), which writes and scores texts."""
