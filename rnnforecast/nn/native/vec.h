// Vectors of the instruction set that this object is compiled for, and the activations on them.
// GCC's and Clang's vector extensions: one source serves AVX-512, AVX2, NEON and SSE2.
#pragma once
#include <string.h>

#include "common.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define RNNF_INLINE static inline __attribute__((always_inline))
#define RNNF_UNROLL _Pragma("GCC unroll 32")

namespace {

#if defined(__AVX512F__)
const int vector_bytes = 64;
const bool many_registers = true;
#elif defined(__AVX2__)
const int vector_bytes = 32;
const bool many_registers = false;
#elif defined(__aarch64__)
const int vector_bytes = 16;
const bool many_registers = true;
#else
const int vector_bytes = 16;
const bool many_registers = false;
#endif

template <class T>
struct Vec;

template <>
struct Vec<float> {
  typedef float v __attribute__((vector_size(vector_bytes)));
  typedef float loose __attribute__((vector_size(vector_bytes), aligned(4), may_alias));
  typedef int32_t bits __attribute__((vector_size(vector_bytes)));
  static const int lanes = vector_bytes / 4;
};

template <>
struct Vec<double> {
  typedef double v __attribute__((vector_size(vector_bytes)));
  typedef double loose __attribute__((vector_size(vector_bytes), aligned(8), may_alias));
  typedef int64_t bits __attribute__((vector_size(vector_bytes)));
  static const int lanes = vector_bytes / 8;
};

typedef Vec<float>::v vf;
typedef Vec<double>::v vd;

template <class T>
RNNF_INLINE typename Vec<T>::v load(const T* at) {
  return *reinterpret_cast<const typename Vec<T>::loose*>(at);
}

template <class T>
RNNF_INLINE void store(T* at, typename Vec<T>::v value) {
  *reinterpret_cast<typename Vec<T>::loose*>(at) = value;
}

// The first n lanes only (0 < n <= lanes): the memory may end after them.
template <class T>
RNNF_INLINE typename Vec<T>::v load(const T* at, i64 n) {
  if (n >= Vec<T>::lanes) return load(at);
  typename Vec<T>::v value = {};
  for (i64 lane = 0; lane < n; lane++) value[lane] = at[lane];
  return value;
}

template <class T>
RNNF_INLINE void store(T* at, typename Vec<T>::v value, i64 n) {
  if (n >= Vec<T>::lanes) return store(at, value);
  for (i64 lane = 0; lane < n; lane++) at[lane] = value[lane];
}

template <class T>
RNNF_INLINE T sum(typename Vec<T>::v value) {
  T total = 0;
  RNNF_UNROLL
  for (int lane = 0; lane < Vec<T>::lanes; lane++) total += value[lane];
  return total;
}

RNNF_INLINE vf reciprocal(vf x) {
#if defined(__AVX512F__)
  vf y = (vf)_mm512_maskz_rcp14_ps(0xFFFF, (__m512)x);  // one Newton step: 2^-14 -> 2^-28
  return y + y * (1.0f - x * y);
#else
  return 1.0f / x;
#endif
}

RNNF_INLINE vd reciprocal(vd x) { return 1.0 / x; }

// Between two bounds; a NaN stays one.
RNNF_INLINE vf between(vf x, float least, float most) {
#if defined(__AVX512F__)
  // the masked forms: GCC 12 warns of its own header in the plain ones
  x = (vf)_mm512_maskz_min_ps(0xFFFF, _mm512_set1_ps(most), (__m512)x);
  return (vf)_mm512_maskz_max_ps(0xFFFF, _mm512_set1_ps(least), (__m512)x);
#elif defined(__AVX2__)
  return (vf)_mm256_max_ps(_mm256_set1_ps(least), _mm256_min_ps(_mm256_set1_ps(most), (__m256)x));
#else
  const vf high = vf{} + most, low = vf{} + least;
  x = x > high ? high : x;
  return x < low ? low : x;
#endif
}

RNNF_INLINE vd between(vd x, double least, double most) {
  const vd high = vd{} + most, low = vd{} + least;
  x = x > high ? high : x;
  return x < low ? low : x;
}

// exp(x) = 2^n (1 + q): x = n log 2 + r with |r| <= log(2) / 2 and q = expm1(r), a minimax polynomial
// r + r^2 p(r) (error below 1e-8 in float, 1e-17 in double). Adding `magic` rounds to an integer and
// leaves it in the low bits. The float nearest to log 2 is off by 2e-9 only: one subtraction will do.
RNNF_INLINE void split_exp(vf x, vf& scale, vf& q) {
  const float magic = 12582912.0f;
  const vf shifted = x * 1.44269504088896341f + magic;
  const vf n = shifted - magic;
  const vf r = x - n * 0.69314718055994531f;
  scale = (vf)(((Vec<float>::bits)shifted << 23) + 0x3F800000);
  vf p = r * 0.0013926550428f + 0.0083634727222f;
  p = p * r + 0.0416665524032f;
  p = p * r + 0.1666657521737f;
  p = p * r + 0.5f;
  q = r + (r * r) * p;
}

RNNF_INLINE void split_exp(vd x, vd& scale, vd& q) {
  const double magic = 6755399441055744.0;
  vd shifted = x * 1.4426950408889634074 + magic;
  vd n = shifted - magic;
  vd r = x - n * 6.93147180369123816490e-01;
  r = r - n * 1.90821492927058770002e-10;
  scale = (vd)(((Vec<double>::bits)shifted << 52) + 0x3FF0000000000000LL);
  vd p = r * 2.091505988491768587e-9 + 2.510573921958671297e-8;
  p = p * r + 2.7557272742699345706e-7;
  p = p * r + 2.7557254139316890463e-6;
  p = p * r + 2.4801587326261103886e-5;
  p = p * r + 1.9841269875819579062e-4;
  p = p * r + 1.3888888888883543254e-3;
  p = p * r + 8.3333333333258479847e-3;
  p = p * r + 4.1666666666669909e-2;
  p = p * r + 1.6666666666666671207e-1;
  p = p * r + 0.5;
  q = r + (r * r) * p;
}

// 1 / (1 + exp(-x))
template <class V>
RNNF_INLINE V sigmoid(V x) {
  V scale, q;
  split_exp(-between(x, -80, 80), scale, q);
  return reciprocal((scale * q + scale) + 1);
}

// expm1(2x) / (expm1(2x) + 2): relative accuracy near zero too.
template <class V>
RNNF_INLINE V hyperbolic(V x) {
  V scale, q;
  x = between(x, -20, 20);
  split_exp(x + x, scale, q);
  const V e = scale * q + (scale - 1);
  return e * reciprocal(e + 2);
}

// to[k * to_row + u] = from[u * from_row + k] for u < n and k < depth: `lanes` square blocks in registers.
template <class T>
__attribute__((noinline)) void transpose(T* to, i64 to_row, const T* from, i64 from_row, i64 n,
                                         i64 depth) {
  const int lanes = Vec<T>::lanes;
  i64 u = 0;
#if defined(__GNUC__) && !defined(__clang__)
  typedef typename Vec<T>::v V;
  typedef typename Vec<T>::bits Bits;
  for (; u + lanes <= n; u += lanes) {
    i64 k = 0;
    for (; k + lanes <= depth; k += lanes) {
      V rows[lanes];
      RNNF_UNROLL
      for (int lane = 0; lane < lanes; lane++) rows[lane] = load(from + (u + lane) * from_row + k);
      RNNF_UNROLL
      for (int span = 1; span < lanes; span *= 2) {
        Bits low, high;
        RNNF_UNROLL
        for (int lane = 0; lane < lanes; lane++) {
          low[lane] = lane & span ? lanes + lane - span : lane;
          high[lane] = lane & span ? lanes + lane : lane + span;
        }
        RNNF_UNROLL
        for (int lane = 0; lane < lanes; lane++)
          if (!(lane & span)) {
            const V first = rows[lane], second = rows[lane + span];
            rows[lane] = __builtin_shuffle(first, second, low);
            rows[lane + span] = __builtin_shuffle(first, second, high);
          }
      }
      RNNF_UNROLL
      for (int lane = 0; lane < lanes; lane++) store(to + (k + lane) * to_row + u, rows[lane]);
    }
    for (; k < depth; k++)
      for (int lane = 0; lane < lanes; lane++)
        to[k * to_row + u + lane] = from[(u + lane) * from_row + k];
  }
#endif
  for (; u < n; u++)
    for (i64 k = 0; k < depth; k++) to[k * to_row + u] = from[u * from_row + k];
}

// acc[v][c] += sum over k of weights[k][v] * rows[c][k]: vectors of weights, numbers broadcast from rows.
template <class T, int UV, int NB>
RNNF_INLINE void accumulate(typename Vec<T>::v (&acc)[UV][NB], const T* weights, const T* rows,
                            i64 stride, i64 count) {
  typedef typename Vec<T>::v V;
  for (i64 k = 0; k < count; k++) {
    V w[UV];
    RNNF_UNROLL
    for (int v = 0; v < UV; v++) w[v] = load(weights + (k * UV + v) * Vec<T>::lanes);
    RNNF_UNROLL
    for (int c = 0; c < NB; c++) {
      const T value = rows[c * stride + k];
      RNNF_UNROLL
      for (int v = 0; v < UV; v++) acc[v][c] += w[v] * value;
    }
  }
}

RNNF_INLINE i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }
RNNF_INLINE i64 smaller(i64 a, i64 b) { return a < b ? a : b; }
RNNF_INLINE i64 larger(i64 a, i64 b) { return a > b ? a : b; }

// Sums of NB columns for UV vectors of units (or gates of one vector), held in registers all the way:
//   sums[c][v] = start[v] + sum over k of w1[k][v] rows1[c][k] + sum over k of w2[k][v] rows2[c][k]
// With FOUR (the GRU: UV = 3), sums[c][3] is what vector 2 had before the second product, which then begins
// at start[3].
template <class T>
struct Product {
  const T* start;  // null: zeros
  const T *w1, *rows1, *w2, *rows2;
  i64 stride1, count1, stride2, count2;
};

template <class T, int UV, int NB, bool FOUR>
__attribute__((noinline)) void product(const Product<T>& p, T* sums) {
  typedef typename Vec<T>::v V;
  const int lanes = Vec<T>::lanes, kinds = FOUR ? UV + 1 : UV;
  V acc[UV][NB];
  RNNF_UNROLL
  for (int v = 0; v < UV; v++) {
    const V start = p.start ? load(p.start + v * lanes) : V{};
    RNNF_UNROLL
    for (int c = 0; c < NB; c++) acc[v][c] = start;
  }
  accumulate<T, UV, NB>(acc, p.w1, p.rows1, p.stride1, p.count1);
  if (FOUR) {
    const V start = load(p.start + UV * lanes);
    RNNF_UNROLL
    for (int c = 0; c < NB; c++) {
      store(sums + (c * kinds + UV) * lanes, acc[UV - 1][c]);
      acc[UV - 1][c] = start;
    }
  }
  accumulate<T, UV, NB>(acc, p.w2, p.rows2, p.stride2, p.count2);
  RNNF_UNROLL
  for (int c = 0; c < NB; c++)
    RNNF_UNROLL
    for (int v = 0; v < UV; v++) store(sums + (c * kinds + v) * lanes, acc[v][c]);
}

// The same for n columns, n <= most, one of the numbers that next_tile() gives.
template <class T, int UV>
RNNF_INLINE void product(i64 n, const Product<T>& p, T* sums) {
  const bool many = many_registers;
  switch (n) {
    case 1: return product<T, UV, 1, UV == 3>(p, sums);
    case 2: return product<T, UV, 2, UV == 3>(p, sums);
    case 3: return product<T, UV, 3, UV == 3>(p, sums);
    case 4: return product<T, UV, 4, UV == 3>(p, sums);
    case 5: return product<T, UV, (many && UV > 2 ? 5 : 1), UV == 3>(p, sums);
    case 6: return product<T, UV, (many || UV <= 2 ? 6 : 1), UV == 3>(p, sums);
    case 8: return product<T, UV, (many && UV <= 3 ? 8 : 1), UV == 3>(p, sums);
    case 12: return product<T, UV, (many && UV <= 2 ? 12 : 1), UV == 3>(p, sums);
  }
}

// Columns that fit the registers beside UV vectors of weights.
constexpr i64 most_columns(int uv) {
  return many_registers ? (uv == 4 ? 6 : uv == 3 ? 8 : 12) : (uv == 4 ? 3 : uv == 3 ? 4 : 6);
}

// Ask for the lines of memory that are written or read soon.
RNNF_INLINE void prepare_write(const void* at, i64 bytes) {
  for (i64 offset = 0; offset < bytes; offset += 64)
    __builtin_prefetch(static_cast<const char*>(at) + offset, 1, 3);
}
RNNF_INLINE void prepare_read(const void* at, i64 bytes) {
  for (i64 offset = 0; offset < bytes; offset += 64)
    __builtin_prefetch(static_cast<const char*>(at) + offset, 0, 3);
}

// How many of the `left` columns the next tile takes: of the compiled sizes, so that no narrow tile is
// left over at the end.
RNNF_INLINE i64 next_tile(i64 left, int uv) {
  static const signed char wide[24] = {0, 1, 2, 3, 4,  3, 6, 4,  8,  6,  6,  8,
                                       12, 8, 8, 12, 8, 12, 12, 12, 12, 12, 12, 12};
  static const signed char eight[16] = {0, 1, 2, 3, 4, 5, 6, 4, 8, 5, 5, 6, 6, 8, 8, 8};
  static const signed char six[12] = {0, 1, 2, 3, 4, 3, 6, 4, 4, 6, 6, 6};
  const int most = most_columns(uv);
  if (most == 12) return left < 24 ? wide[left] : 12;
  if (most == 8) return left < 16 ? eight[left] : 8;
  if (most == 6 && uv <= 2) return left < 12 ? six[left] : 6;
  return ceil_div(left, ceil_div(left, most));
}

}  // namespace
