"""Datasets as batches of arrays, and the noise that corrupts them."""
