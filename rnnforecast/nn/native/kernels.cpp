// The kernels, compiled once per instruction set: -DRNNF_ISA=avx512, avx2 or generic with the flags that
// dispatch.cpp names. Everything but the table is local to the object.
#include "backward.h"
#include "forward.h"

#define RNNF_JOIN_(a, b) a##b
#define RNNF_JOIN(a, b) RNNF_JOIN_(a, b)
#define RNNF_TEXT_(a) #a
#define RNNF_TEXT(a) RNNF_TEXT_(a)

namespace {

i64 saved_size(i64 cell, i64 batch, i64 time, i64 hidden, i64 is64) {
  const i64 lanes = is64 ? Vec<double>::lanes : Vec<float>::lanes;
  const i64 kinds = cell == RNNF_LSTM ? 5 : cell == RNNF_GRU ? 4 : 0;
  return kinds * batch * time * ceil_div(hidden, lanes) * lanes;
}

template <class T>
double fma_rounds(i64 rounds) {
  typedef typename Vec<T>::v V;
  const int chains = many_registers ? 24 : 12;
  V acc[chains];
  RNNF_UNROLL
  for (int chain = 0; chain < chains; chain++) acc[chain] = V{} + T(chain);
  const V factor = V{} + T(0.5);
  for (i64 round = 0; round < rounds; round++) {
    RNNF_UNROLL
    for (int chain = 0; chain < chains; chain++) acc[chain] = acc[chain] * factor + factor;
  }
  volatile T keep = 0;
  for (int chain = 0; chain < chains; chain++) keep = keep + acc[chain][0];
  return 2.0 * double(rounds) * chains * Vec<T>::lanes;
}

double fma_loop(i64 rounds, i64 is64) {
  return is64 ? fma_rounds<double>(rounds) : fma_rounds<float>(rounds);
}

}  // namespace

extern "C" const rnnf_table RNNF_JOIN(rnnf_table_, RNNF_ISA);
extern "C" const rnnf_table RNNF_JOIN(rnnf_table_, RNNF_ISA) = {
    RNNF_TEXT(RNNF_ISA), saved_size,       forward<float>, forward<double>,
    backward<float>,     backward<double>, fma_loop};
