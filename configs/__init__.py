"""The configuration's files, as the package `convae.configs`."""
