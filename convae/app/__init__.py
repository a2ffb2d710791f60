"""A whole run, sweeps, and the command line."""
