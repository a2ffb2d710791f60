"""The GPU: array code on CuPy; our kernels and cuDNN as ways of a program, certified before use."""
