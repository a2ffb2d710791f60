"""The CuPy backend, and faster implementations that are disabled until certified on hardware."""
