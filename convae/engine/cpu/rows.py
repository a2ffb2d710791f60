"""What a line of a list of calls says, and a job; `calls` writes them, `products` reads them."""

from __future__ import annotations

from enum import IntEnum


class Operation(IntEnum):
    """What is done."""

    CONVOLVE = 0
    SPREAD = 1
    TURN = 2
    REPEAT = 3
    ADD = 4
    SUM = 5
    SWAP = 6
    GATHER = 7
    POOL = 8
    TAKE = 9
    UNPOOL = 10
    FINISH = 11


class Kind(IntEnum):
    """What is behind a product, done with the elements of D when they have just been written.

    LINEAR and SIGMOID add a bias and apply an activation: piecewise linear, or the sigmoid. ERROR
    and SIGMOID_ERROR do so, and replace each y by ``scale * (y - target) * f'(y)``. SLOPE adds
    `EXTRA`, if there is any, and multiplies by f'(H).
    """

    NOTHING = 0
    LINEAR = 1
    SIGMOID = 2
    SLOPE = 3
    ERROR = 4
    SIGMOID_ERROR = 5


class Fresh(IntEnum):
    """What is done with what D held."""

    ALL = 0  # the whole of it is set to zero first, and all terms add to it
    ROWS = 1  # every row is overwritten by the one term that it has
    BLOCK = 2  # each block is set to zero first, and its terms add to it
    FIRST = 3  # the first block's terms overwrite all rows, others add to them


class Field(IntEnum):
    """The entries of a line: numbers, offsets in M, and, where marked T, offsets in T."""

    OPERATION = 0
    D = 1  # what is written
    A = 2  # the numbers of a product, or what is read
    B = 3  # the rows of a product
    # products: blocks, and the boxes of A that they read
    BLOCKS = 4  # T
    FIRST = 5
    LAST = 6
    SIZE = 7  # three: of an example of A
    CHANNELS = 10
    WHOLE = 11  # three: room for a box
    ROOM = 14  # elements of the boxes of a block
    SPAN = 15  # elements of D per number along the divided axis, or per line
    FRESH = 16
    # CONVOLVE: its terms
    TERMS = 17  # T
    TERM_COUNT = 18
    ROW_COUNTS = 19  # T
    DEPTHS = 20  # T
    NUMBERS = 21  # entries of a term in these two
    D_ROWS = 22  # T
    A_ROWS = 23  # T
    STEPS = 24  # T
    GROUP = 41  # columns of groups that are side by side in a term; 0 where each has terms
    A_GROUP = 42  # channels of such groups in A
    BY_TAPS = 43  # groups, one behind the other in a box whose rows B's numbers multiply; else 0
    READABLE = 44  # numbers of a row of A that there are from its first one on
    # SPREAD
    ROWS = 25
    WIDTH = 26
    PHASES = 27  # T: of each phase of the first two axes, the first step and how many
    COLUMNS = 28
    STRIDE = 29  # three; of pooling its window
    SUMS = 32  # T: of each phase of the last axis, the first of the taps and how many
    TAPS = 33  # T: rows of the product, and where in them
    # what is behind a product
    KIND = 34
    BIAS = 35
    BIAS_LENGTH = 36
    H = 37
    EXTRA = 38  # 0 for none
    TARGET = 39
    # TURN: matrices FIRST to LAST, of ROWS by COLUMNS, to rows of WIDTH
    # SWAP: kernel elements FIRST to LAST, of GROUP channels by COLUMNS, A_GROUP for each group
    # GATHER: the ROWS of WIDTH of TURN, of GROUP matrices for each group, to rows of CHANNELS
    # POOL, TAKE, UNPOOL: lines FIRST to LAST of windows, of an array of SIZE and CHANNELS, which is
    # A, or D of UNPOOL; switches are at B
    # FINISH: what is behind, of lines FIRST to LAST
    # the others: COUNT elements
    COUNT = 40


FIELDS = Field.READABLE + 1
"""Entries of a line."""

BLOCK_ENTRIES = 14
"""Entries of a block: its number along the divided axis; where A begins, and how many examples;
start of the box, three; its extent, three; where D and B begin; positions of D, three."""

TERM_ENTRIES = 10
"""Entries of a term: where D and A begin, its first row and step, where B begins, columns; and, for
rows in runs, else 0: the distances of a run's rows in D and in A, and how many steps, the first
ones, are in threes, and the next ones in pairs, that are as far apart in A as those rows."""


class Number(IntEnum):
    """The entries of a line that are not whole."""

    SLOPE = 0  # of a piecewise linear activation, below zero
    DERIVATIVE = 1  # four: f' = p + q*y + r*y**2, times the fourth where y is not positive
    SCALE = 5  # on the error


NUMBERS = 6
"""Such entries of a line."""


class Job(IntEnum):
    """The entries of a job: lines of a list that threads do together, and how far they are.

    Counters that threads share have a cache line each.
    """

    OPEN = 0  # the number of the job that threads may join; 0 while there is none
    INSIDE = 8  # threads that have joined, or are about to
    TAKEN = 16  # lines that somebody has taken
    DONE = 24  # lines that are done
    POSTED = 32  # raised when helpers are wanted for something that is no job
    # what the caller has written before it opens the job
    NUMBER = 40
    LAST = 41  # line at which it ends
    TOGETHER = 42  # threads that can do it together
    ITEMSIZE = 43  # of its arrays' elements
    SCRATCH = 44  # elements of scratch memory for a thread
    TABLE = 45  # addresses, and lengths
    TABLE_LENGTH = 46
    ROWS = 47
    ROW_COUNT = 48
    NUMBERS = 49
    SUMS = 50


JOB_ENTRIES = Job.SUMS + 1
"""Entries of a job."""


class Watched(IntEnum):
    """Why a helper has stopped watching for jobs."""

    NOTHING = 0  # none has come for a while
    POSTED = 1  # it is wanted for something else
    UNFIT = 2  # a job needs other elements or more scratch memory
