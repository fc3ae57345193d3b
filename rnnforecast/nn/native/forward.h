// Forward pass of one layer in one direction.
//
// The lanes of a vector are hidden units, the columns of a tile are rows of the batch, so that input and
// outputs keep torch's layout. In a tile, the sums of all gates of a vector of units for a few columns
// stay in registers over bias, input and state, and the gates are applied to them there. A column's
// arithmetic does not depend on its neighbours.
#pragma once
#include "vec.h"

namespace {

const i64 block_columns = 48;  // of one pass through time: their state stays in the first caches

template <class T>
struct Forward {
  const rnnf_forward_args* a;
  const rnnf_services* services;
  i64 units;   // vectors of hidden units
  i64 padded;  // hidden units, filled up with zeros to whole vectors
  i64 tasks;
  int failed;  // set by a task that got no memory
  const T *weights, *bias, *peephole;  // packed

  const T* x(i64 b, i64 t) const {
    return reinterpret_cast<const T*>(a->x) + b * a->x_batch + t * a->x_time;
  }
  T* out(i64 b, i64 t) const {
    return reinterpret_cast<T*>(a->out) + b * a->out_batch + t * a->out_time;
  }
  T* saved(i64 step, i64 unit, i64 b, int kinds) const {
    return reinterpret_cast<T*>(a->saved) +
           ((step * units + unit) * a->batch + b) * kinds * Vec<T>::lanes;
  }
};

// One block of columns at one step.
template <class T>
struct Step {
  i64 step, t, first, columns;
  const T* h_old;  // (columns, padded); null: zeros
  T *h_new, *c;    // c: (units, columns, lanes)
};

template <class T>
RNNF_INLINE void store_output(const Forward<T>& f, const Step<T>& s, i64 unit, i64 column,
                              typename Vec<T>::v h) {
  const int lanes = Vec<T>::lanes;
  store(s.h_new + column * f.padded + unit * lanes, h);
  store(f.out(s.first + column, s.t) + unit * lanes, h, f.a->hidden - unit * lanes);
}

// Gates of torch's order, each `hidden` rows, packed [unit][k][gate][lane], input before state.
template <class T>
RNNF_INLINE void pack_gates(const Forward<T>& f, T* w, int gates) {
  const int lanes = Vec<T>::lanes;
  const rnnf_forward_args& a = *f.a;
  const i64 depth = a.inputs + a.hidden;
  const T* sources[2] = {reinterpret_cast<const T*>(a.w_ih), reinterpret_cast<const T*>(a.w_hh)};
  const i64 widths[2] = {a.inputs, a.hidden};
  for (i64 unit = 0; unit < f.units; unit++) {
    T* to = w + unit * depth * gates * lanes;
    const i64 real = smaller(lanes, a.hidden - unit * lanes);
    for (int side = 0; side < 2; to += widths[side++] * gates * lanes)
      for (int gate = 0; gate < gates; gate++) {
        const T* from = sources[side] + (gate * a.hidden + unit * lanes) * widths[side];
        if (real < lanes)
          for (i64 k = 0; k < widths[side]; k++)
            memset(to + (k * gates + gate) * lanes, 0, size_t(lanes) * sizeof(T));
        transpose(to + gate * lanes, gates * lanes, from, widths[side], real, widths[side]);
      }
  }
}

// to[unit][slot][lane] = first[gate] (+ second[gate]), zeros where neither is given.
template <class T>
RNNF_INLINE void pack_bias(const Forward<T>& f, T* to, int slots, int slot, int gate, i64 first,
                           i64 second) {
  const int lanes = Vec<T>::lanes;
  for (i64 u = 0; u < f.padded; u++) {
    T value = 0;
    if (u < f.a->hidden) {
      if (first) value += reinterpret_cast<const T*>(first)[gate * f.a->hidden + u];
      if (second) value += reinterpret_cast<const T*>(second)[gate * f.a->hidden + u];
    }
    to[((u / lanes) * slots + slot) * lanes + u % lanes] = value;
  }
}

// Every cell: the sums of a tile of columns, then finish() for what is the cell's own.
template <class T, class Cell, int UV>
RNNF_INLINE void forward_tiles(const Forward<T>& f, const Step<T>& s, i64 unit) {
  const int lanes = Vec<T>::lanes, spread = Cell::gates > 1 ? 1 : UV;  // vectors of units in a tile
  alignas(64) T sums[32 * lanes];
  Product<T> p;
  p.start = f.bias + unit * Cell::starts * lanes;
  p.w1 = f.weights + unit * (f.a->inputs + f.a->hidden) * Cell::gates * lanes;
  p.w2 = p.w1 + f.a->inputs * UV * lanes;
  p.stride1 = f.a->x_batch;
  p.stride2 = f.padded;
  p.count1 = f.a->inputs;
  p.count2 = s.h_old ? f.a->hidden : 0;
  for (i64 column = 0; column < s.columns;) {
    const i64 n = next_tile(s.columns - column, UV);
    if (Cell::kinds && f.a->saved)
      prepare_write(f.saved(s.step, unit, s.first + column, Cell::kinds),
                    n * Cell::kinds * vector_bytes);
    for (i64 c = 0; c < n; c++)
      prepare_write(f.out(s.first + column + c, s.t) + unit * lanes, spread * vector_bytes);
    p.rows1 = f.x(s.first + column, s.t);
    p.rows2 = s.h_old + column * f.padded;
    product<T, UV>(n, p, sums);
    for (int v = 0; v < spread; v++) Cell::finish(f, s, unit + v, column, n, sums + v * lanes, spread);
    column += n;
  }
}

template <class T>
struct VanillaForward {
  typedef typename Vec<T>::v V;
  static const int gates = 1, starts = 1, kinds = 0;

  static __attribute__((noinline)) void finish(const Forward<T>& f, const Step<T>& s, i64 unit,
                                               i64 column, i64 n, const T* sums, int spread) {
    for (i64 c = 0; c < n; c++)
      store_output(f, s, unit, column + c, hyperbolic(load(sums + c * spread * Vec<T>::lanes)));
  }

  static void step(const Forward<T>& f, const Step<T>& s) {
    i64 unit = 0;
    for (; unit + 2 <= f.units; unit += 2) forward_tiles<T, VanillaForward<T>, 2>(f, s, unit);
    if (unit < f.units) forward_tiles<T, VanillaForward<T>, 1>(f, s, unit);
  }

  static size_t packed(const Forward<T>& f) {
    return size_t(f.padded) * size_t(f.a->inputs + f.a->hidden + 1);
  }

  template <int UV>
  static void pack_units(const Forward<T>& f, T* w, i64 unit) {
    const int lanes = Vec<T>::lanes;
    const rnnf_forward_args& a = *f.a;
    const i64 depth = a.inputs + a.hidden;
    for (int v = 0; v < UV; v++) {
      const i64 start = (unit + v) * lanes;
      const i64 rows = a.hidden - start;
      T* to = w + unit * depth * lanes + v * lanes;
      const i64 n = smaller(lanes, rows);
      if (n < lanes)
        for (i64 k = 0; k < depth; k++) memset(to + k * UV * lanes, 0, size_t(lanes) * sizeof(T));
      transpose(to, UV * lanes, reinterpret_cast<const T*>(a.w_ih) + start * a.inputs, a.inputs, n,
                a.inputs);
      transpose(to + a.inputs * UV * lanes, UV * lanes,
                reinterpret_cast<const T*>(a.w_hh) + start * a.hidden, a.hidden, n, a.hidden);
    }
  }

  static void pack(Forward<T>& f, T* memory) {
    T* bias = memory + f.padded * (f.a->inputs + f.a->hidden);
    i64 unit = 0;
    for (; unit + 2 <= f.units; unit += 2) pack_units<2>(f, memory, unit);
    if (unit < f.units) pack_units<1>(f, memory, unit);
    pack_bias(f, bias, 1, 0, 0, f.a->b_ih, f.a->b_hh);
    f.weights = memory;
    f.bias = bias;
  }
};

template <class T>
struct LSTMForward {
  typedef typename Vec<T>::v V;
  static const int gates = 4, starts = 4;
  static const int kinds = 5;  // saved: i, f, g, o, c

  static __attribute__((noinline)) void finish(const Forward<T>& f, const Step<T>& s, i64 unit,
                                               i64 column, i64 n, const T* sums, int) {
    const int lanes = Vec<T>::lanes;
    const T* p = f.peephole ? f.peephole + unit * 3 * lanes : nullptr;
    T* saved = f.a->saved ? f.saved(s.step, unit, s.first + column, kinds) : nullptr;
    T* cell = s.c + (unit * s.columns + column) * lanes;
    for (i64 c = 0; c < n; c++, sums += 4 * lanes, cell += lanes) {
      const V c_old = load(cell);
      V to_i = load(sums), to_f = load(sums + lanes), to_o = load(sums + 3 * lanes);
      if (p) {
        to_i += load(p) * c_old;
        to_f += load(p + lanes) * c_old;
      }
      const V i = sigmoid(to_i), forget = sigmoid(to_f), g = hyperbolic(load(sums + 2 * lanes));
      const V c_new = forget * c_old + i * g;
      if (p) to_o += load(p + 2 * lanes) * c_new;
      const V o = sigmoid(to_o);
      store(cell, c_new);
      store_output(f, s, unit, column + c, o * hyperbolic(c_new));
      if (saved) {
        store(saved, i);
        store(saved + lanes, forget);
        store(saved + 2 * lanes, g);
        store(saved + 3 * lanes, o);
        store(saved + 4 * lanes, c_new);
        saved += kinds * lanes;
      }
    }
  }

  static void step(const Forward<T>& f, const Step<T>& s) {
    for (i64 unit = 0; unit < f.units; unit++) forward_tiles<T, LSTMForward<T>, 4>(f, s, unit);
  }

  static size_t packed(const Forward<T>& f) {
    return size_t(f.padded) * size_t(4 * (f.a->inputs + f.a->hidden) + 4 + 3);
  }

  static void pack(Forward<T>& f, T* memory) {
    T* bias = memory + f.padded * 4 * (f.a->inputs + f.a->hidden);
    T* peephole = bias + f.padded * 4;
    pack_gates(f, memory, 4);
    for (int gate = 0; gate < 4; gate++) pack_bias(f, bias, 4, gate, gate, f.a->b_ih, f.a->b_hh);
    if (f.a->peephole)
      for (int gate = 0; gate < 3; gate++) pack_bias(f, peephole, 3, gate, gate, f.a->peephole, 0);
    f.weights = memory;
    f.bias = bias;
    f.peephole = f.a->peephole ? peephole : nullptr;
  }
};

template <class T>
struct GRUForward {
  typedef typename Vec<T>::v V;
  static const int gates = 3, starts = 4;  // starts: r, z, n of the input, n of the state
  static const int kinds = 4;              // saved: r, z, n, W_hn h + b_hn

  static __attribute__((noinline)) void finish(const Forward<T>& f, const Step<T>& s, i64 unit,
                                               i64 column, i64 n, const T* sums, int) {
    const int lanes = Vec<T>::lanes;
    T* saved = f.a->saved ? f.saved(s.step, unit, s.first + column, kinds) : nullptr;
    for (i64 c = 0; c < n; c++, sums += 4 * lanes) {
      const V r = sigmoid(load(sums)), z = sigmoid(load(sums + lanes));
      const V from_state = load(sums + 2 * lanes);
      const V candidate = hyperbolic(load(sums + 3 * lanes) + r * from_state);
      V h_old = {};
      if (s.h_old) h_old = load(s.h_old + (column + c) * f.padded + unit * lanes);
      store_output(f, s, unit, column + c, candidate + z * (h_old - candidate));
      if (saved) {
        store(saved, r);
        store(saved + lanes, z);
        store(saved + 2 * lanes, candidate);
        store(saved + 3 * lanes, from_state);
        saved += kinds * lanes;
      }
    }
  }

  static void step(const Forward<T>& f, const Step<T>& s) {
    for (i64 unit = 0; unit < f.units; unit++) forward_tiles<T, GRUForward<T>, 3>(f, s, unit);
  }

  static size_t packed(const Forward<T>& f) {
    return size_t(f.padded) * size_t(3 * (f.a->inputs + f.a->hidden) + 4);
  }

  static void pack(Forward<T>& f, T* memory) {
    T* bias = memory + f.padded * 3 * (f.a->inputs + f.a->hidden);
    pack_gates(f, memory, 3);
    for (int gate = 0; gate < 2; gate++) pack_bias(f, bias, 4, gate, gate, f.a->b_ih, f.a->b_hh);
    pack_bias(f, bias, 4, 2, 2, f.a->b_ih, 0);
    pack_bias(f, bias, 4, 3, 2, f.a->b_hh, 0);
    f.weights = memory;
    f.bias = bias;
  }
};

template <class T, class Cell>
void forward_block(const Forward<T>& f, i64 first, i64 columns, T* memory) {
  const int lanes = Vec<T>::lanes;
  const rnnf_forward_args& a = *f.a;
  const i64 state = columns * f.padded;
  T* h[2] = {memory, memory + state};
  T* c = memory + 2 * state;
  memset(memory, 0, size_t(3 * state) * sizeof(T));
  for (i64 b = 0; b < columns; b++) {
    const i64 from = (first + b) * a.hidden;
    if (a.h0)
      memcpy(h[0] + b * f.padded, reinterpret_cast<const T*>(a.h0) + from,
             size_t(a.hidden) * sizeof(T));
    if (a.c0)
      for (i64 u = 0; u < a.hidden; u++)
        c[((u / lanes) * columns + b) * lanes + u % lanes] =
            reinterpret_cast<const T*>(a.c0)[from + u];
  }
  for (i64 step = 0; step < a.time; step++) {
    Step<T> s;
    s.step = step;
    s.t = a.reverse ? a.time - 1 - step : step;
    s.first = first;
    s.columns = columns;
    s.h_old = step == 0 && !a.h0 ? nullptr : h[step % 2];
    s.h_new = h[(step + 1) % 2];
    s.c = c;
    Cell::step(f, s);
  }
  for (i64 b = 0; b < columns; b++) {
    const i64 to = (first + b) * a.hidden;
    memcpy(reinterpret_cast<T*>(a.h_n) + to, h[a.time % 2] + b * f.padded,
           size_t(a.hidden) * sizeof(T));
    if (a.c_n)
      for (i64 u = 0; u < a.hidden; u++)
        reinterpret_cast<T*>(a.c_n)[to + u] = c[((u / lanes) * columns + b) * lanes + u % lanes];
  }
}

template <class T, class Cell>
void forward_task(void* context, i64 index) {
  Forward<T>& f = *static_cast<Forward<T>*>(context);
  const i64 begin = f.a->batch * index / f.tasks, end = f.a->batch * (index + 1) / f.tasks;
  if (begin == end) return;
  const i64 widest = smaller(end - begin, block_columns);
  T* memory = static_cast<T*>(
      f.services->scratch(1, size_t(3 * widest * f.padded + Vec<T>::lanes) * sizeof(T)));
  if (!memory) {
    f.failed = 1;
    return;
  }
  for (i64 first = begin; first < end; first += block_columns)
    forward_block<T, Cell>(f, first, smaller(end - first, block_columns), memory);
}

template <class T, class Cell>
int forward_cell(const rnnf_forward_args* a, const rnnf_services* services) {
  Forward<T> f;
  memset(&f, 0, sizeof f);
  f.a = a;
  f.services = services;
  f.units = ceil_div(a->hidden, Vec<T>::lanes);
  f.padded = f.units * Vec<T>::lanes;
  f.tasks = larger(1, smaller(a->threads, a->batch));
  T* memory = static_cast<T*>(services->scratch(0, Cell::packed(f) * sizeof(T)));
  if (!memory) return 1;
  Cell::pack(f, memory);
  services->parallel(forward_task<T, Cell>, &f, f.tasks);
  return f.failed;
}

template <class T>
int forward(const rnnf_forward_args* a, const rnnf_services* services) {
  switch (a->cell) {
    case RNNF_RNN:
      return forward_cell<T, VanillaForward<T>>(a, services);
    case RNNF_LSTM:
      return forward_cell<T, LSTMForward<T>>(a, services);
    case RNNF_GRU:
      return forward_cell<T, GRUForward<T>>(a, services);
  }
  return 2;
}

}  // namespace
