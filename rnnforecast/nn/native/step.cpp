// One step (or a few) of a stack of recurrent layers for rows that each keep their own state: what a
// forecast stream costs per observation. Called by rnnforecast/nn/step.py.
//
// Weights stand in blocks of as many units as a vector register has lanes. A block's sums for a tile
// of rows stay in registers over all inputs, and the gates are applied to them there. States are
// row-major (row, unit), padded to whole blocks; the padding stays zero. The instruction set is chosen
// at run time, and the packing follows it (rnnf_step_bytes).

#include <cmath>
#include <cstdint>

namespace {

enum Cell : int64_t { ELMAN = 0, LSTM = 1, GRU = 2, PEEPHOLE = 3 };

constexpr int64_t CHUNK = 48;  // rows that go through all layers together, so that they stay in cache

// Mirrored by rnnforecast/nn/step.py (_Step): eight bytes each, in this order.
struct Step {
    int64_t cell, n_layers, hidden, input, n_rows, residual;
    int64_t n_steps, x_row, x_step;  // x of row r at step t: x + r * x_row + t * x_step
    const void *weights;             // packed, layer by layer
    const void *x;
    void *h, *c;     // (n_layers, n_rows, width); c is null without memory cells
    void *top;       // (n_rows, width): output of the last layer at the last step
    void *scratch;   // 2 * CHUNK * width
};

// Mirrored by rnnforecast/nn/step.py (_Push).
struct Push {
    int64_t n_rows, n_targets, n_past, season, capacity, size;
    int64_t share;          // neighbouring rows that have the same past covariates
    int64_t at, before;     // position of the new row; number of rows before it
    const double *targets;  // (n_rows, n_targets), in series units, covariates' effect taken off
    const double *past;     // (n_rows / share, n_past)
    const double *centre, *scale;  // (n_rows, n_targets)
    void *features;         // (n_rows, capacity, size)
};

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define RNNF_STEP_X86 1
namespace wide {
#define RNNF_STEP_TARGET __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")))
#define RNNF_STEP_BYTES 64
#define RNNF_STEP_TILE 6
#include "step_kernels.h"
#undef RNNF_STEP_TARGET
#undef RNNF_STEP_BYTES
#undef RNNF_STEP_TILE
}  // namespace wide
namespace middle {
#define RNNF_STEP_TARGET __attribute__((target("avx2,fma")))
#define RNNF_STEP_BYTES 32
#define RNNF_STEP_TILE 2
#include "step_kernels.h"
#undef RNNF_STEP_TARGET
#undef RNNF_STEP_BYTES
#undef RNNF_STEP_TILE
}  // namespace middle
#endif
namespace narrow {
#define RNNF_STEP_TARGET
#define RNNF_STEP_BYTES 16
#define RNNF_STEP_TILE 2
#include "step_kernels.h"
#undef RNNF_STEP_TARGET
#undef RNNF_STEP_BYTES
#undef RNNF_STEP_TILE
}  // namespace narrow

int64_t widest() {
#ifdef RNNF_STEP_X86
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
        return 64;
    if (avx2) return 32;
#endif
    return 16;
}

template <class T> void run(const Step &s, int64_t bytes) {
#ifdef RNNF_STEP_X86
    if (bytes == 64) return wide::run<T>(s);
    if (bytes == 32) return middle::run<T>(s);
#endif
    if (bytes == 16) return narrow::run<T>(s);
}

// The features of one new row, as ForecastNetwork.features makes them of a window.
template <class T> void push(const Push &p) {
    const int64_t nt = p.n_targets, seasonal = p.season > 1 ? nt : 0;
    for (int64_t row = 0; row < p.n_rows; ++row) {
        T *now = (T *)p.features + (row * p.capacity + p.at) * p.size;
        const T *then = p.before >= p.season ? now - p.season * p.size : nullptr;
        T *mark = now + nt + seasonal;
        for (int64_t j = 0; j < nt; ++j) {
            const int64_t k = row * nt + j;
            const bool missing = std::isnan(p.targets[k]);
            now[j] = missing ? T(0) : T((p.targets[k] - p.centre[k]) / p.scale[k]);
            mark[j] = missing ? T(1) : T(0);
            if (seasonal) {
                const bool both = then && !missing && then[nt + seasonal + j] == T(0);
                now[nt + j] = both ? now[j] - then[j] : T(0);
            }
        }
        T *past = mark + nt;
        for (int64_t j = 0; j < p.n_past; ++j) {
            const double value = p.past[row / p.share * p.n_past + j];
            const bool missing = std::isnan(value);
            past[j] = missing ? T(0) : T(value);
            past[p.n_past + j] = missing ? T(1) : T(0);
        }
    }
}

}  // namespace

#define RNNF_API __attribute__((visibility("default")))

extern "C" {

// Bytes of the widest vectors of this machine: what weights are packed for.
RNNF_API int64_t rnnf_step_bytes() { return widest(); }

RNNF_API int64_t rnnf_step_chunk() { return CHUNK; }

RNNF_API void rnnf_step_run_f64(const void *step, int64_t bytes) {
    run<double>(*(const Step *)step, bytes);
}

RNNF_API void rnnf_step_run_f32(const void *step, int64_t bytes) {
    run<float>(*(const Step *)step, bytes);
}

// A new row's features, then a step.
RNNF_API void rnnf_step_push_f64(const void *row, const void *step, int64_t bytes) {
    push<double>(*(const Push *)row);
    run<double>(*(const Step *)step, bytes);
}

RNNF_API void rnnf_step_push_f32(const void *row, const void *step, int64_t bytes) {
    push<float>(*(const Push *)row);
    run<float>(*(const Step *)step, bytes);
}
}
