// The product of a left and a right factor by a block of threads: ROWS x COLUMNS sums over any number
// of terms, STAGE terms at a time, in the same order on every run; preceded by tensor.cu.
//
// Where ROWS x COLUMNS is too little for all threads, they are divided into slices, each with a part
// of a stage's terms, which are added up at the end.

#if TENSOR  // a part is a warp's
enum { WORKERS = THREADS / 32 };
enum { PART_ROWS = ROWS < 32 ? ROWS : 32 };
enum { PART_COLUMNS = COLUMNS >= 128 ? 64 : COLUMNS < 32 ? COLUMNS : 32 };
#else  // a part is a thread's
enum { WORKERS = THREADS };
enum { PART_ROWS = ROWS >= 64 ? 8 : 4 };
enum { PART_COLUMNS = ROWS >= 128 && COLUMNS >= 128 ? 8 : 4 };
#endif
enum { PARTS = ROWS / PART_ROWS * (COLUMNS / PART_COLUMNS) };
enum { SLICES = WORKERS / PARTS };
enum { DEPTH = (SLICES == 1 ? 16 : 8) * (sizeof(Factor) == 2 ? 2 : 1) };  // a slice's terms
enum { STAGE = SLICES * DEPTH };
// blocks for which a multiprocessor has registers: more registers for losses, for three axes, and for
// compilers of older cards, which need more
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
enum { BLOCKS = 1 };
#else
enum { BLOCKS = LOSS || q.size[0] > 1 ? 1 : 2 };
#endif
static_assert(SLICES * PARTS == WORKERS, "the parts of a block must suit its threads");

// --- fetching ------------------------------------------------------------------------------------

// Which elements of a stage of a factor, LENGTH rows (or columns) of STAGE terms, a thread fetches:
// COUNT vectors of WIDTH elements, which lie along the terms, or along the rows.
template <int LENGTH_, int WIDTH_, bool ALONG_TERMS_> struct Share {
    enum { LENGTH = LENGTH_, WIDTH = WIDTH_, ALONG_TERMS = ALONG_TERMS_ };
    enum { LINE = (ALONG_TERMS ? STAGE : LENGTH) / WIDTH, VECTORS = LENGTH * STAGE / WIDTH };
    enum { COUNT = VECTORS < THREADS ? 1 : VECTORS / THREADS, NEXT = THREADS / LINE };
    static_assert(LINE <= THREADS, "threads must cover a line");
    int first_row, first_term;

    __device__ Share() {
        const int t = threadIdx.x;
        if (ALONG_TERMS) {
            first_row = t / LINE;
            first_term = t % LINE * WIDTH;
        } else if (TENSOR) {  // few rows by many terms in a warp, which are stored side by side
            constexpr int NEAR = 16 / WIDTH, BY = LINE / NEAR;
            first_row = (t % NEAR + t / 32 % BY * NEAR) * WIDTH;
            first_term = t % 32 / NEAR + t / 32 / BY * (32 / NEAR);
        } else {
            first_row = t % LINE * WIDTH;
            first_term = t / LINE;
        }
    }
    __device__ bool has_any() const { return VECTORS >= THREADS || threadIdx.x < VECTORS; }
    __device__ int row(int i) const { return first_row + (ALONG_TERMS ? i * NEXT : 0); }
    __device__ int term(int i) const { return first_term + (ALONG_TERMS ? 0 : i * NEXT); }
};

// --- a stage of a factor in shared memory --------------------------------------------------------

// For tensor cores the terms of a row are neighbours, which are read in words of one or two terms;
// otherwise the rows of a term, which are read four at a time. The padding keeps what a warp reads
// together in different banks.
template <class Mine> struct Stage {
    enum { STEP = TENSOR ? STAGE + 16 / sizeof(Factor) : Mine::LENGTH + 4 };
    enum { SIZE = (TENSOR ? Mine::LENGTH : STAGE) * STEP };

    static __device__ int at(int term, int row) {
        return TENSOR ? row * STEP + term : term * STEP + row;
    }
};

// A thread's part in bringing a factor to shared memory. The factor says by `Mine` which elements a
// thread fetches; it is told the rows once, by row(i, row), and every stage's terms by term(term,
// whether there is one), and fetch(i) returns a vector, zeros where there is nothing.
template <class Source> struct Fetcher {
    typedef typename Source::Mine Mine;
    Source& source;
    const Mine mine;
    Vector<T, Mine::WIDTH> next[Mine::COUNT];

    __device__ Fetcher(Source& source) : source(source) {
        for (int i = 0; i < (Mine::ALONG_TERMS ? Mine::COUNT : 1); ++i) source.row(i, mine.row(i));
    }
    __device__ void fetch(unsigned first, unsigned end) {
        if (!mine.has_any()) return;
#pragma unroll
        for (int i = 0; i < Mine::COUNT; ++i) {
            const unsigned term = first + mine.term(i);
            if (!Mine::ALONG_TERMS || i == 0) source.term(term, term < end);
            next[i] = source.fetch(i);
        }
    }
    __device__ void store(Factor* stage) const {
        constexpr bool IS_RUN = (TENSOR != 0) == (Mine::ALONG_TERMS != 0);
        constexpr int WIDTH = Mine::WIDTH, MOST = 16 / sizeof(Factor);
        constexpr int RUN = !IS_RUN ? 1 : WIDTH < MOST ? WIDTH : MOST;
        if (!mine.has_any()) return;
#pragma unroll
        for (int i = 0; i < Mine::COUNT; ++i)
#pragma unroll
            for (int first = 0; first < WIDTH; first += RUN) {
                Vector<Factor, RUN> values;
                for (int j = 0; j < RUN; ++j)
                    values.at[j] = as_factor(next[i].at[first + j]);
                const int term = mine.term(i) + (Mine::ALONG_TERMS ? first : 0);
                const int row = mine.row(i) + (Mine::ALONG_TERMS ? 0 : first);
                *(Vector<Factor, RUN>*)(stage + Stage<Mine>::at(term, row)) = values;
            }
    }
};

// --- the sums of a part --------------------------------------------------------------------------

#if TENSOR
// A warp's sums: a lane has rows `group` and `group` + 8 of every 16, and two columns of every 8.
struct Part {
    enum { BY_ROWS = PART_ROWS / 16, BY_COLUMNS = PART_COLUMNS / 8, RUN = 2 };
    float sums[BY_ROWS][BY_COLUMNS][4] = {};
    int slice, row, column, group, place;

    __device__ Part() {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        slice = warp / PARTS;
        row = warp % PARTS / (COLUMNS / PART_COLUMNS) * PART_ROWS;
        column = warp % (COLUMNS / PART_COLUMNS) * PART_COLUMNS;
        group = lane / 4;
        place = lane % 4;
    }
    template <class A, class B> __device__ void add(const Factor* a, const Factor* b) {
        const int begin = slice * DEPTH;
#pragma unroll
        for (int term = begin; term < begin + DEPTH; term += TERMS) {
            // a lane has terms from `near` and from `far`
            const int near = term + place * (TERMS / 8), far = near + TERMS / 2;
            unsigned x[BY_ROWS][4];
#pragma unroll
            for (int i = 0; i < BY_ROWS; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    x[i][j] = *(const unsigned*)(
                        a + A::at(j < 2 ? near : far, row + i * 16 + group + j % 2 * 8));
#pragma unroll
            for (int j = 0; j < BY_COLUMNS; ++j) {
                const int own = column + j * 8 + group;
                const unsigned y[2] = {*(const unsigned*)(b + B::at(near, own)),
                                       *(const unsigned*)(b + B::at(far, own))};
#pragma unroll
                for (int i = 0; i < BY_ROWS; ++i) multiply(sums[i][j], x[i], y);
            }
        }
    }
    // Calls f(row, column, sums) for each run of sums in a row.
    template <class F> __device__ void each(F f) {
#pragma unroll
        for (int i = 0; i < BY_ROWS; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half)
#pragma unroll
                for (int j = 0; j < BY_COLUMNS; ++j)
                    f(row + i * 16 + half * 8 + group, column + j * 8 + place * 2,
                      sums[i][j] + half * 2);
    }
};
#else
// A thread's sums; those of more than four rows or columns are fours apart, for the banks' sake.
struct Part {
    enum { BY_ROWS = ROWS / PART_ROWS, BY_COLUMNS = COLUMNS / PART_COLUMNS, RUN = 4 };
    float sums[PART_ROWS][PART_COLUMNS] = {};
    int slice, row, column;

    __device__ Part() {
        slice = threadIdx.x / PARTS;
        row = threadIdx.x % PARTS / BY_COLUMNS * 4;
        column = threadIdx.x % BY_COLUMNS * 4;
    }
    template <class A, class B> __device__ void add(const Factor* a, const Factor* b) {
        const int begin = slice * DEPTH;
#pragma unroll
        for (int depth = 0; depth < DEPTH; ++depth) {
            const int term = begin + depth;
            Vector<float, 4> x[PART_ROWS / 4], y[PART_COLUMNS / 4];
#pragma unroll
            for (int i = 0; i < PART_ROWS / 4; ++i)
                x[i] = load<4>(a + A::at(term, row + i * 4 * BY_ROWS));
#pragma unroll
            for (int j = 0; j < PART_COLUMNS / 4; ++j)
                y[j] = load<4>(b + B::at(term, column + j * 4 * BY_COLUMNS));
#pragma unroll
            for (int i = 0; i < PART_ROWS; ++i)
#pragma unroll
                for (int j = 0; j < PART_COLUMNS; ++j)
                    sums[i][j] += x[i / 4].at[i % 4] * y[j / 4].at[j % 4];
        }
    }
    template <class F> __device__ void each(F f) {
#pragma unroll
        for (int i = 0; i < PART_ROWS; ++i)
#pragma unroll
            for (int j = 0; j < PART_COLUMNS / 4; ++j)
                f(row + i / 4 * 4 * BY_ROWS + i % 4, column + j * 4 * BY_COLUMNS,
                  sums[i] + j * 4);
    }
};
#endif

// --- the product ---------------------------------------------------------------------------------

// Sums the terms from `begin` to `end`. `take(row, column, sums)` gets Part::RUN sums of a row, all of
// them from one thread.
template <class Left, class Right, class Take>
__device__ void product(unsigned begin, unsigned end, Left& left, Right& right, Take take) {
    typedef Stage<typename Left::Mine> A;
    typedef Stage<typename Right::Mine> B;
    constexpr int STAGES = 2 * (A::SIZE + B::SIZE) * sizeof(Factor);
    constexpr int SUMS = SLICES > 1 ? ROWS * COLUMNS * 4 : 0;
    __shared__ __align__(16) unsigned char memory[STAGES > SUMS ? STAGES : SUMS];
    Factor* const a = (Factor*)memory;
    Factor* const b = a + 2 * A::SIZE;
    Fetcher<Left> left_fetcher(left);
    Fetcher<Right> right_fetcher(right);
    Part part;
    if (begin < end) {
        left_fetcher.fetch(begin, end);
        right_fetcher.fetch(begin, end);
        left_fetcher.store(a);
        right_fetcher.store(b);
    }
    __syncthreads();
    int turn = 0;
    for (unsigned first = begin; first < end; first += STAGE, turn ^= 1) {
        const bool has_more = first + STAGE < end;
        if (has_more) {  // overlaps with the sums
            left_fetcher.fetch(first + STAGE, end);
            right_fetcher.fetch(first + STAGE, end);
        }
        part.template add<A, B>(a + turn * A::SIZE, b + turn * B::SIZE);
        if (has_more) {
            left_fetcher.store(a + (turn ^ 1) * A::SIZE);
            right_fetcher.store(b + (turn ^ 1) * B::SIZE);
        }
        __syncthreads();
    }
    float* const shared_sums = (float*)memory;
    for (int slice = 1; slice < SLICES; ++slice) {  // in order
        if (part.slice == slice)
            part.each([&](int row, int column, const float* sums) {
                for (int i = 0; i < Part::RUN; ++i)
                    shared_sums[row * COLUMNS + column + i] = sums[i];
            });
        __syncthreads();
        if (part.slice == 0)
            part.each([&](int row, int column, float* sums) {
                for (int i = 0; i < Part::RUN; ++i)
                    sums[i] += shared_sums[row * COLUMNS + column + i];
            });
        __syncthreads();
    }
    if (part.slice == 0) part.each(take);
}
