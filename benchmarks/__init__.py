"""Side-by-side benchmarks against other libraries: python -m benchmarks.<name>."""
