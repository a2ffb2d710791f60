// g of few channels; preceded by patches.cu. Rows are elements, terms are positions, columns are filters.

// A lane reads WIDTH neighbouring filters. FILTER_BLOCKS warps divide the filters among them, and
// ROW_BLOCKS the elements, ROWS times 16 for each; several times as many divide the positions.
enum { BLOCK = 8 * WIDTH, COLUMNS = FILTER_BLOCKS * BLOCK };  // filters of a warp, and of all
enum { SHARES = WARPS / (FILTER_BLOCKS * ROW_BLOCKS) };
enum { UNIT = SHARES * TERMS, OWN = TERMS / 4 };      // terms at a time, and a lane's of an instruction
enum { AHEAD = sizeof(T) == 4 && ROWS > 2 ? 1 : 2 };  // units that are read ahead

// A lane's filters of the codes that are its terms.
struct OwnTerms {
    Vector<T, WIDTH> codes[OWN];

    __device__ void read(const Place* places, int first, const T* G, int filter) {
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
            const Place place = place_of(places, first + i);
            codes[i] = {};
            if (place.code >= 0 && filter < FILTERS)
                codes[i] = load<WIDTH>(G + (long long)place.code * FILTERS + filter);
        }
    }
};

// The sums over a share of the boxes, to parts (gridDim.x, taps * channels, filters); blockIdx.y is the
// number of its filters.
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
edge_g(const T* G, const T* V, float* parts, int N) {
    extern __shared__ __align__(16) unsigned char memory[];
    Place* const places = (Place*)memory;
    Factor* const patch = (Factor*)(places + POSITIONS);
    const int group = threadIdx.x % 32 / 4, place = threadIdx.x % 4;
    const int first_column = threadIdx.x / 32 % FILTER_BLOCKS * BLOCK;
    const int first_row = threadIdx.x / 32 / FILTER_BLOCKS % ROW_BLOCKS * ROWS;
    const int share = threadIdx.x / 32 / (FILTER_BLOCKS * ROW_BLOCKS);
    const int filter = blockIdx.y * COLUMNS + first_column + group * WIDTH;
    Offsets offsets[ROWS];  // of this lane's elements
#pragma unroll
    for (int row = 0; row < ROWS; ++row) {
        const int element = (first_row + row) * 16 + group;
        offsets[row] = Offsets(element, element + 8);
    }
    float sums[ROWS][WIDTH][4] = {};
    const Boxes boxes(N, q.output);
    for (int index = blockIdx.x; index < boxes.total; index += gridDim.x) {
        see(boxes, index, V, N, patch, places);
        if (share >= SHARES) continue;
        OwnTerms next[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; ++i)
            next[i].read(places, share * TERMS + i * UNIT + place * OWN, G, filter);
        for (int unit = share * TERMS; unit < POSITIONS; unit += UNIT) {
            const OwnTerms own = next[0];
#pragma unroll
            for (int i = 1; i < AHEAD; ++i) next[i - 1] = next[i];
            // overlaps with the sums
            next[AHEAD - 1].read(places, unit + AHEAD * UNIT + place * OWN, G, filter);
            int base[OWN];
#pragma unroll
            for (int i = 0; i < OWN; ++i) base[i] = place_of(places, unit + place * OWN + i).base;
            unsigned y[WIDTH][2];
#pragma unroll
            for (int column = 0; column < WIDTH; ++column)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const Factor one = as_factor(own.codes[half * EACH].at[column]);
                    const Factor other = as_factor(own.codes[half * EACH + EACH - 1].at[column]);
                    y[column][half] = word(one, other);
                }
#pragma unroll
            for (int row = 0; row < ROWS; ++row) {
                unsigned x[4];
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const Factor* from = patch + offsets[row].of(i % 2);
                    const Factor& one = from[base[i / 2 * EACH]];
                    const Factor& other = from[base[i / 2 * EACH + EACH - 1]];
                    x[i] = word(one, other);
                }
#pragma unroll
                for (int column = 0; column < WIDTH; ++column) multiply(sums[row][column], x, y[column]);
            }
        }
    }
    float* const total = (float*)memory;  // (element, column), shares in order
    for (int turn = 0; turn < SHARES; ++turn) {
        __syncthreads();
        if (share != turn) continue;
#pragma unroll
        for (int row = 0; row < ROWS; ++row)
#pragma unroll
            for (int column = 0; column < WIDTH; ++column)
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int element = (first_row + row) * 16 + i / 2 * 8 + group;
                    const int own = first_column + (place * 2 + i % 2) * WIDTH + column;
                    if (element >= ELEMENTS) continue;
                    float* const at = total + element * COLUMNS + own;
                    *at = turn == 0 ? sums[row][column][i] : *at + sums[row][column][i];
                }
    }
    __syncthreads();
    for (int at = threadIdx.x; at < ELEMENTS * COLUMNS; at += THREADS) {
        const int own = blockIdx.y * COLUMNS + at % COLUMNS, element = at / COLUMNS;
        if (own < FILTERS)
            parts[((long long)blockIdx.x * ELEMENTS + element) * FILTERS + own] = total[at];
    }
}
