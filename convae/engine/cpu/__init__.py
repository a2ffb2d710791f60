"""The NumPy backend: compiled convolutions of whole blocks, matrix products for the rest."""
