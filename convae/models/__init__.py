"""The models: tied layers, the stack, its losses and its files."""
