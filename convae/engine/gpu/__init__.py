"""The CuPy backend, and what is to make it fast once it has been certified on a card."""
