// The arithmetic of step.cpp for one instruction set; included once for each of them, inside a
// namespace of its own, with
//   RNNF_STEP_TARGET  the function attribute that selects the instruction set, or nothing
//   RNNF_STEP_BYTES   width of a vector register
//   RNNF_STEP_TILE    rows whose sums stand in registers together
// There is no include guard on purpose.

#define RNNF_STEP_INLINE static inline __attribute__((always_inline)) RNNF_STEP_TARGET

template <class T> struct Lane;

template <> struct Lane<double> {
    typedef double V __attribute__((vector_size(RNNF_STEP_BYTES)));
    typedef int64_t I __attribute__((vector_size(RNNF_STEP_BYTES)));
    static constexpr int n = RNNF_STEP_BYTES / 8;
};

template <> struct Lane<float> {
    typedef float V __attribute__((vector_size(RNNF_STEP_BYTES)));
    typedef int32_t I __attribute__((vector_size(RNNF_STEP_BYTES)));
    static constexpr int n = RNNF_STEP_BYTES / 4;
};

template <class T> RNNF_STEP_INLINE typename Lane<T>::V load(const T *from) {
    typename Lane<T>::V out;
    __builtin_memcpy(&out, from, sizeof out);
    return out;
}

template <class T> RNNF_STEP_INLINE void store(T *to, typename Lane<T>::V value) {
    __builtin_memcpy(to, &value, sizeof value);
}

template <class T>
RNNF_STEP_INLINE typename Lane<T>::V clamp(typename Lane<T>::V x, T most) {
    typename Lane<T>::V high = most - typename Lane<T>::V{}, low = -high;
    x = x > high ? high : x;
    return x < low ? low : x;
}

// exp(x) = 2^n exp(r) with n the nearest integer to x / ln 2: adding 1.5 * 2^(mantissa bits)
// rounds, and leaves n in the lowest bits of the sum. |x| < 700 (double), < 80 (float).
RNNF_STEP_INLINE Lane<double>::V exponential(Lane<double>::V x) {
    typedef Lane<double>::V V;
    typedef Lane<double>::I I;
    const double shift = 6755399441055744.0;
    V t = x * 1.4426950408889634 + shift;
    V n = t - shift;
    V r = x - n * 0.693147180369123816490;
    r = r - n * 1.90821492927058770002e-10;
    // Taylor; the remainder r^13 / 13! is below 2e-16 for |r| <= ln(2) / 2
    V p = r * (1.0 / 479001600) + 1.0 / 39916800;
    p = p * r + 1.0 / 3628800;
    p = p * r + 1.0 / 362880;
    p = p * r + 1.0 / 40320;
    p = p * r + 1.0 / 5040;
    p = p * r + 1.0 / 720;
    p = p * r + 1.0 / 120;
    p = p * r + 1.0 / 24;
    p = p * r + 1.0 / 6;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    return (V)((I)p + ((I)t << 52));
}

RNNF_STEP_INLINE Lane<float>::V exponential(Lane<float>::V x) {
    typedef Lane<float>::V V;
    typedef Lane<float>::I I;
    const float shift = 12582912.0f;
    V t = x * 1.44269504f + shift;
    V n = t - shift;
    V r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    // the remainder r^8 / 8! is below 6e-9
    V p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return (V)((I)p + ((I)t << 23));
}

// Beyond it 1 + exp(-x) is 1 to the last bit, and no product of two exponentials overflows.
template <class T> struct Limit;
template <> struct Limit<double> { static constexpr double most = 40.0; };
template <> struct Limit<float> { static constexpr float most = 20.0f; };

template <class T> RNNF_STEP_INLINE typename Lane<T>::V bounded_exp(typename Lane<T>::V x) {
    return exponential(clamp<T>(x, Limit<T>::most));
}

template <class T> RNNF_STEP_INLINE typename Lane<T>::V hyperbolic_tangent(typename Lane<T>::V x) {
    typename Lane<T>::V e = bounded_exp<T>(x + x);
    return (e - T(1)) / (e + T(1));
}

// -- cells: how many sums a unit has, which of them input and state add to, and the step itself ----
// finish(sums, c, h, peephole, width): c holds the memory cell, h the state before; both are renewed.

struct Elman {
    static constexpr int sums = 1, gates = 1, blocks = 4, single = 4, peepholes = 0;
    static constexpr int from_state(int gate) { return gate; }
    template <class T>
    RNNF_STEP_INLINE void finish(const typename Lane<T>::V *a, typename Lane<T>::V &,
                                 typename Lane<T>::V &h, const T *) {
        h = hyperbolic_tangent<T>(a[0]);
    }
};

template <bool PEEPHOLE> struct Memory {
    static constexpr int sums = 4, gates = 4, blocks = 1, single = 2, peepholes = PEEPHOLE ? 3 : 0;
    static constexpr int from_state(int gate) { return gate; }
    template <class T>
    RNNF_STEP_INLINE void finish(const typename Lane<T>::V *a, typename Lane<T>::V &c,
                                 typename Lane<T>::V &h, const T *peephole) {
        typedef typename Lane<T>::V V;
        const int n = Lane<T>::n;
        V in = a[0], forget = a[1], out = a[3];
        if (PEEPHOLE) {
            in += load(peephole) * c;
            forget += load(peephole + n) * c;
        }
        // sigmoid(i) tanh(g) and sigmoid(o) tanh(c) need one division each
        V g = bounded_exp<T>(a[2] + a[2]);
        V entering = (g - T(1)) / ((g + T(1)) * (bounded_exp<T>(-in) + T(1)));
        c = c / (bounded_exp<T>(-forget) + T(1)) + entering;
        if (PEEPHOLE) out += load(peephole + 2 * n) * c;
        V e = bounded_exp<T>(c + c);
        h = (e - T(1)) / ((e + T(1)) * (bounded_exp<T>(-out) + T(1)));
    }
};

struct Gated {  // reset gate after the recurrent product; sums: r, z, n from the input, n from h
    static constexpr int sums = 4, gates = 3, blocks = 1, single = 2, peepholes = 0;
    static constexpr int from_state(int gate) { return gate == 2 ? 3 : gate; }
    template <class T>
    RNNF_STEP_INLINE void finish(const typename Lane<T>::V *a, typename Lane<T>::V &,
                                 typename Lane<T>::V &h, const T *) {
        typedef typename Lane<T>::V V;
        V reset = T(1) / (bounded_exp<T>(-a[0]) + T(1));
        V keep = T(1) / (bounded_exp<T>(-a[1]) + T(1));
        V fresh = hyperbolic_tangent<T>(a[2] + reset * a[3]);
        h = fresh + keep * (h - fresh);
    }
};

// -- U blocks of units, R rows ----------------------------------------------------------------------

// Packed weights of one block of Lane::n units: sums x n biases, then for every input and after
// them for every unit of the state gates x n weights, then peepholes x n.
template <class T, class CELL> constexpr int64_t block_size(int64_t input, int64_t hidden) {
    return Lane<T>::n * (CELL::sums + (input + hidden) * CELL::gates + CELL::peepholes);
}

template <class T, class CELL, int R, int U, bool STATE>
RNNF_STEP_INLINE void add_product(typename Lane<T>::V (&sums)[U][R][CELL::sums],
                                  const T *(&weights)[U], const T *rows, int64_t stride, int64_t n) {
    typedef typename Lane<T>::V V;
    for (int64_t k = 0; k < n; ++k) {
        V w[U][CELL::gates];
#pragma GCC unroll 8
        for (int u = 0; u < U; ++u) {
#pragma GCC unroll 4
            for (int g = 0; g < CELL::gates; ++g) w[u][g] = load(weights[u] + g * Lane<T>::n);
            weights[u] += CELL::gates * Lane<T>::n;
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const T value = rows[r * stride + k];
#pragma GCC unroll 8
            for (int u = 0; u < U; ++u) {
#pragma GCC unroll 4
                for (int g = 0; g < CELL::gates; ++g) {
                    const int at = STATE ? CELL::from_state(g) : g;
                    sums[u][r][at] += w[u][g] * value;
                }
            }
        }
    }
}

// Rows of one layer: x (R, in), h before and out after (R, hidden), c in place.
template <class T> struct Rows {
    const T *x;
    int64_t x_stride, input;
    const T *h;
    T *c, *out;
    int64_t hidden, width;  // width: the stride of h, c and out
};

template <class T, class CELL, int R, int U>
RNNF_STEP_INLINE void units(const Rows<T> &rows, const T *packed, int64_t size, int64_t row,
                            int64_t block) {
    typedef typename Lane<T>::V V;
    const int n = Lane<T>::n;
    V sums[U][R][CELL::sums];
    const T *weights[U];
#pragma GCC unroll 8
    for (int u = 0; u < U; ++u) {
        weights[u] = packed + (block + u) * size;
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int a = 0; a < CELL::sums; ++a) sums[u][r][a] = load(weights[u] + a * n);
        weights[u] += CELL::sums * n;
    }
    add_product<T, CELL, R, U, false>(sums, weights, rows.x + row * rows.x_stride, rows.x_stride,
                                      rows.input);
    add_product<T, CELL, R, U, true>(sums, weights, rows.h + row * rows.width, rows.width,
                                     rows.hidden);
#pragma GCC unroll 8
    for (int u = 0; u < U; ++u)
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const int64_t at = (row + r) * rows.width + (block + u) * n;
            V h = load(rows.h + at), c = V{};
            const bool has_memory = CELL::sums == 4 && CELL::gates == 4;
            if (has_memory) c = load(rows.c + at);
            CELL::template finish<T>(sums[u][r], c, h, weights[u]);
            store(rows.out + at, h);
            if (has_memory) store(rows.c + at, c);
        }
}

template <class T, class CELL>
static RNNF_STEP_TARGET __attribute__((noinline)) void
layer(const Rows<T> &rows, const T *packed, int64_t n_rows) {
    const int64_t size = block_size<T, CELL>(rows.input, rows.hidden);
    const int64_t n_blocks = rows.width / Lane<T>::n;
    const int64_t tiled = n_rows / RNNF_STEP_TILE * RNNF_STEP_TILE;
    int64_t block = 0;
    if (tiled) {
        for (; block + CELL::blocks <= n_blocks; block += CELL::blocks)
            for (int64_t row = 0; row < tiled; row += RNNF_STEP_TILE)
                units<T, CELL, RNNF_STEP_TILE, CELL::blocks>(rows, packed, size, row, block);
        if (CELL::blocks > 1)
            for (; block < n_blocks; ++block)
                for (int64_t row = 0; row < tiled; row += RNNF_STEP_TILE)
                    units<T, CELL, RNNF_STEP_TILE, 1>(rows, packed, size, row, block);
    }
    for (int64_t row = tiled; row < n_rows; ++row) {
        block = 0;
        for (; block + CELL::single <= n_blocks; block += CELL::single)
            units<T, CELL, 1, CELL::single>(rows, packed, size, row, block);
        for (; block < n_blocks; ++block) units<T, CELL, 1, 1>(rows, packed, size, row, block);
    }
}

// -- the stack --------------------------------------------------------------------------------------

template <class T, class CELL> static RNNF_STEP_TARGET void stack(const Step &s) {
    const int64_t n = Lane<T>::n, width = (s.hidden + n - 1) / n * n;
    T *scratch[2] = {(T *)s.scratch, (T *)s.scratch + CHUNK * width};
    const int64_t depth_stride = s.n_rows * width;
    for (int64_t first = 0; first < s.n_rows; first += CHUNK) {
        const int64_t n_rows = s.n_rows - first < CHUNK ? s.n_rows - first : CHUNK;
        const int64_t bytes = n_rows * width * (int64_t)sizeof(T);
        const T *top = nullptr;
        for (int64_t step = 0; step < s.n_steps; ++step) {
            const T *packed = (const T *)s.weights;
            const T *x = (const T *)s.x + first * s.x_row + step * s.x_step;
            int64_t input = s.input, stride = s.x_row;
            for (int64_t depth = 0; depth < s.n_layers; ++depth) {
                const int64_t at = depth * depth_stride + first * width;
                T *h = (T *)s.h + at, *c = s.c ? (T *)s.c + at : nullptr;
                T *out = scratch[depth & 1];
                layer<T, CELL>(Rows<T>{x, stride, input, h, c, out, s.hidden, width}, packed, n_rows);
                __builtin_memcpy(h, out, bytes);
                if (s.residual && depth > 0)
                    for (int64_t k = 0; k < n_rows * width; ++k) out[k] += x[k];
                packed += width / n * block_size<T, CELL>(input, s.hidden);
                x = top = out;
                input = s.hidden;
                stride = width;
            }
        }
        if (top) __builtin_memcpy((T *)s.top + first * width, top, bytes);
    }
}

template <class T> static RNNF_STEP_TARGET void run(const Step &s) {
    switch (s.cell) {
        case ELMAN: return stack<T, Elman>(s);
        case LSTM: return stack<T, Memory<false>>(s);
        case GRU: return stack<T, Gated>(s);
        case PEEPHOLE: return stack<T, Memory<true>>(s);
    }
}

#undef RNNF_STEP_INLINE
