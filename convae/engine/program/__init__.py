"""A computation decided once, from shapes, and run many times: nodes on named arrays.

`nodes` says what a program is, `arithmetic` what each operation computes, in array code that NumPy
and CuPy share, and `execution` binds a program to memory and to ways of computing its nodes.
"""

from convae.engine.program.arithmetic import Portable
from convae.engine.program.execution import Executable, Memory, Way
from convae.engine.program.nodes import Node, Problem, Program, Slot

__all__ = ["Executable", "Memory", "Node", "Portable", "Problem", "Program", "Slot", "Way"]
