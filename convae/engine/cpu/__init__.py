"""The NumPy backend: compiled convolutions for whole blocks, matrix products otherwise."""
