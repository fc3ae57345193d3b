// Backward pass of one layer in one direction.
//
// Steps run from the last to the first. At each, the gradient of the state is one small product of
// the later step's gate gradients with W_hh, finished by the cell's own derivatives while the sums are in
// registers. Gate gradients are kept for a chunk of steps that fits the second-level cache; after each
// chunk come the gradients of weights, biases and inputs as matrix products over its rows. Weight
// gradients add up per chunk, then over chunks: shorter sums in float32.
#pragma once
#include "vec.h"

namespace {

const i64 backward_columns = 48;
const size_t chunk_bytes = 256 * 1024;

template <class T>
struct Backward {
  const rnnf_backward_args* a;
  const rnnf_services* services;
  i64 units, padded, tasks;
  i64 row;  // distance of two columns' gate gradients
  int failed;
  const T *w_state, *w_input;  // packed
  const T* peephole;           // (3, padded)
  T* partial;                  // weight gradients of each task
  i64 partial_size;

  const T* x(i64 b, i64 t) const {
    return reinterpret_cast<const T*>(a->x) + b * a->x_batch + t * a->x_time;
  }
  const T* out(i64 b, i64 t) const {
    return reinterpret_cast<const T*>(a->out) + b * a->out_batch + t * a->out_time;
  }
  const T* dout(i64 b, i64 t) const {
    return reinterpret_cast<const T*>(a->dout) + b * a->dout_batch + t * a->dout_time;
  }
  T* dx(i64 b, i64 t) const { return reinterpret_cast<T*>(a->dx) + b * a->dx_batch + t * a->dx_time; }
  const T* saved(i64 step, i64 unit, i64 b, int kinds) const {
    return reinterpret_cast<const T*>(a->saved) +
           ((step * units + unit) * a->batch + b) * kinds * Vec<T>::lanes;
  }
  // Distance of two rows of copied states or inputs: an odd number of lines if they have several.
  i64 value_row(i64 width) const {
    const i64 line = 64 / i64(sizeof(T));
    return 2 * width <= line ? width : (ceil_div(width, line) | 1) * line;
  }
  i64 time_of(i64 step) const { return a->reverse ? a->time - 1 - step : step; }
  // The state before a step, null where it is zero.
  const T* state_before(i64 step, i64 b) const {
    if (step > 0) return out(b, time_of(step - 1));
    return a->h0 ? reinterpret_cast<const T*>(a->h0) + b * a->hidden : nullptr;
  }
};

template <class T>
struct BackStep {
  i64 step, t, first, columns;
  const T* later;      // gate gradients of the later step (columns, row); null at the last step
  T* gates;            // gate gradients of this step
  T *carry, *dc;       // (units, columns, lanes)
  T* dpeephole;        // (3, padded), of this chunk of steps
  T* values;           // where finish() puts the states that it reads; null: nowhere
  i64 value_row;
  bool last;           // carry holds the gradient of the last state
};

// d of the state's gradient, of one vector of units and one column: what each cell does with it.
// reads: how many steps after the one at hand the state belongs to that finish() reads; -1: it reads none.
template <class T>
struct VanillaBackward {
  typedef typename Vec<T>::v V;
  static const int slots = 1, state_slots = 1, input_first = 0, input_slots = 1;
  static const int kinds = 0, reads = 1;
  static const bool carries = false;
  static int gate(int slot) { return slot; }

  RNNF_INLINE void finish(const Backward<T>& f, const BackStep<T>& s, i64 unit, i64 column, V dh) {
    const int lanes = Vec<T>::lanes;
    const V h = load(f.out(s.first + column, s.t) + unit * lanes, f.a->hidden - unit * lanes);
    store(s.gates + column * f.row + unit * lanes, dh * (1 - h * h));
    if (s.values) store(s.values + column * s.value_row + unit * lanes, h);
  }
};

template <class T>
struct LSTMBackward {
  typedef typename Vec<T>::v V;
  static const int slots = 4, state_slots = 4, input_first = 0, input_slots = 4;
  static const int kinds = 5, reads = -1;
  static const bool carries = false;
  static int gate(int slot) { return slot; }

  RNNF_INLINE void finish(const Backward<T>& f, const BackStep<T>& s, i64 unit, i64 column, V dh) {
    const int lanes = Vec<T>::lanes;
    const i64 b = s.first + column;
    const T* at = f.saved(s.step, unit, b, kinds);
    const V i = load(at), forget = load(at + lanes), g = load(at + 2 * lanes);
    const V o = load(at + 3 * lanes), th = hyperbolic(load(at + 4 * lanes));
    V c_old = {};
    if (s.step > 0)
      c_old = load(f.saved(s.step - 1, unit, b, kinds) + 4 * lanes);
    else if (f.a->c0)
      c_old = load(reinterpret_cast<const T*>(f.a->c0) + b * f.a->hidden + unit * lanes,
                   f.a->hidden - unit * lanes);
    T* cell = s.dc + (unit * s.columns + column) * lanes;
    V dc = load(cell) + dh * o * (1 - th * th);
    const V d_o = dh * th * o * (1 - o);
    const T* p = f.peephole ? f.peephole + unit * lanes : nullptr;
    if (p) dc += d_o * load(p + 2 * f.padded);
    const V d_i = dc * g * i * (1 - i);
    const V d_f = dc * c_old * forget * (1 - forget);
    const V d_g = dc * i * (1 - g * g);
    V dc_old = dc * forget;
    if (p) {
      dc_old += d_i * load(p) + d_f * load(p + f.padded);
      T* dp = s.dpeephole + unit * lanes;
      store(dp, load(dp) + d_i * c_old);
      store(dp + f.padded, load(dp + f.padded) + d_f * c_old);
      store(dp + 2 * f.padded, load(dp + 2 * f.padded) + d_o * load(at + 4 * lanes));
    }
    store(cell, dc_old);
    T* to = s.gates + column * f.row + unit * lanes;
    store(to, d_i);
    store(to + f.padded, d_f);
    store(to + 2 * f.padded, d_g);
    store(to + 3 * f.padded, d_o);
  }
};

// Slots: n before the reset gate's factor (state), r, z, n (input): what belongs to W_hh and what to
// W_ih are neighbours.
template <class T>
struct GRUBackward {
  typedef typename Vec<T>::v V;
  static const int slots = 4, state_slots = 3, input_first = 1, input_slots = 3;
  static const int kinds = 4, reads = 0;
  static const bool carries = true;
  static int gate(int slot) { return slot == 0 ? 2 : slot - 1; }

  RNNF_INLINE void finish(const Backward<T>& f, const BackStep<T>& s, i64 unit, i64 column, V dh) {
    const int lanes = Vec<T>::lanes;
    const i64 b = s.first + column;
    const T* at = f.saved(s.step, unit, b, kinds);
    const V r = load(at), z = load(at + lanes), n = load(at + 2 * lanes);
    const V from_state = load(at + 3 * lanes);
    const T* before = f.state_before(s.step, b);
    V h_old = {};
    if (before) h_old = load(before + unit * lanes, f.a->hidden - unit * lanes);
    if (s.values) store(s.values + column * s.value_row + unit * lanes, h_old);
    const V d_n = dh * (1 - z) * (1 - n * n);
    const V d_z = dh * (h_old - n) * z * (1 - z);
    const V d_r = d_n * from_state * r * (1 - r);
    store(s.carry + (unit * s.columns + column) * lanes, dh * z);
    T* to = s.gates + column * f.row + unit * lanes;
    store(to, d_n * r);
    store(to + f.padded, d_r);
    store(to + 2 * f.padded, d_z);
    store(to + 3 * f.padded, d_n);
  }
};

// What is left of a tile of n columns once its sums are there, for one vector of units.
template <class T, class Cell>
__attribute__((noinline)) void finish_state(const Backward<T>& f, const BackStep<T>& s, i64 unit,
                                            i64 column, i64 n, const T* sums, int spread, T* dh0) {
  const int lanes = Vec<T>::lanes;
  const rnnf_backward_args& a = *f.a;
  const i64 start = unit * lanes, real = a.hidden - start;
  const T* carry = Cell::carries || s.last ? s.carry + (unit * s.columns + column) * lanes : nullptr;
  const T* dout = a.dout ? f.dout(s.first + column, s.t) + start : nullptr;
  for (i64 c = 0; c < n; c++) {
    typename Vec<T>::v dh = {};
    if (s.later) dh = load(sums + c * spread * lanes);
    if (carry) dh += load(carry + c * lanes);
    if (dh0) {
      store(dh0 + (s.first + column + c) * a.hidden + start, dh, real);
      continue;
    }
    if (dout) dh += load(dout + c * a.dout_batch, real);
    Cell::finish(f, s, unit, column + c, dh);
  }
}

template <class T, class Cell, int UV>
RNNF_INLINE void state_tiles(const Backward<T>& f, const BackStep<T>& s, i64 unit, T* dh0) {
  const int lanes = Vec<T>::lanes;
  alignas(64) T sums[32 * lanes];
  Product<T> p;
  memset(&p, 0, sizeof p);
  p.w1 = f.w_state + unit * lanes * Cell::state_slots * f.padded;
  p.stride1 = f.row;
  p.count1 = Cell::state_slots * f.padded;
  for (i64 column = 0; column < s.columns;) {
    const i64 n = next_tile(s.columns - column, UV);
    if (Cell::kinds)
      for (int v = 0; v < UV; v++)
        prepare_read(f.saved(s.step, unit + v, s.first + column, Cell::kinds),
                     n * Cell::kinds * vector_bytes);
    for (i64 c = column; c < column + n; c++) {
      if (f.a->dout) prepare_read(f.dout(s.first + c, s.t) + unit * lanes, UV * vector_bytes);
      const T* read = Cell::kinds ? f.state_before(s.step, s.first + c) : f.out(s.first + c, s.t);
      if (read) prepare_read(read + unit * lanes, UV * vector_bytes);
    }
    if (s.later) {
      p.rows1 = s.later + column * f.row;
      product<T, UV>(n, p, sums);
    }
    for (int v = 0; v < UV; v++)
      finish_state<T, Cell>(f, s, unit + v, column, n, sums + v * lanes, UV, dh0);
    column += n;
  }
}

// The gate gradients of one step; with dh0, the gradient of the first state instead.
template <class T, class Cell>
void state_step(const Backward<T>& f, const BackStep<T>& s, T* dh0) {
  i64 unit = 0;
  for (; unit + 2 <= f.units; unit += 2) state_tiles<T, Cell, 2>(f, s, unit, dh0);
  if (unit < f.units) state_tiles<T, Cell, 1>(f, s, unit, dh0);
}

// W transposed, packed [pair of vectors of k][slot, u][lane] from w[gate, u][k], zeros in the padding.
template <class T, class Cell>
void pack_transposed(const Backward<T>& f, T* to, const T* w, i64 width, int first, int slots) {
  const int lanes = Vec<T>::lanes;
  const i64 hidden = f.a->hidden, units = ceil_div(width, lanes);
  for (i64 unit = 0; unit < units;) {
    const i64 span = (unit + 2 <= units ? 2 : 1) * lanes;
    const i64 real = smaller(span, width - unit * lanes);
    for (int slot = first; slot < first + slots; slot++)
      for (i64 u = 0; u < f.padded; u++, to += span) {
        const i64 here = u < hidden ? real : 0;
        if (here)
          memcpy(to, w + (Cell::gate(slot) * hidden + u) * width + unit * lanes,
                 size_t(here) * sizeof(T));
        for (i64 lane = here; lane < span; lane++) to[lane] = 0;
      }
    unit += span / lanes;
  }
}

// sums[k][g] += sum over n of values[n][k] * gates[n][g]: KR columns k of values, UV vectors of g.
template <class T, int UV, int KR>
__attribute__((noinline)) void outer_tile(T* sums, i64 width, const T* values, i64 depth,
                                          const T* gates, i64 row, i64 count) {
  typedef typename Vec<T>::v V;
  const int lanes = Vec<T>::lanes;
  V acc[UV][KR];
  RNNF_UNROLL
  for (int v = 0; v < UV; v++)
    RNNF_UNROLL
    for (int r = 0; r < KR; r++) acc[v][r] = V{};
  for (i64 n = 0; n < count; n++, gates += row, values += depth) {
    V g[UV];
    RNNF_UNROLL
    for (int v = 0; v < UV; v++) g[v] = load(gates + v * lanes);
    RNNF_UNROLL
    for (int r = 0; r < KR; r++) {
      const T number = values[r];
      RNNF_UNROLL
      for (int v = 0; v < UV; v++) acc[v][r] += g[v] * number;
    }
  }
  RNNF_UNROLL
  for (int r = 0; r < KR; r++)
    RNNF_UNROLL
    for (int v = 0; v < UV; v++) {
      T* at = sums + r * width + v * lanes;
      store(at, load(at) + acc[v][r]);
    }
}

template <class T, int UV>
RNNF_INLINE void outer_strip(T* sums, i64 width, const T* values, i64 depth, i64 stride,
                             const T* gates, i64 row, i64 count) {
  const bool many = many_registers;
  for (i64 k = 0; k < depth;) {
    const i64 n = next_tile(depth - k, 2);
    T* to = sums + k * width;
    switch (n) {
      case 1: outer_tile<T, UV, 1>(to, width, values + k, stride, gates, row, count); break;
      case 2: outer_tile<T, UV, 2>(to, width, values + k, stride, gates, row, count); break;
      case 3: outer_tile<T, UV, 3>(to, width, values + k, stride, gates, row, count); break;
      case 4: outer_tile<T, UV, 4>(to, width, values + k, stride, gates, row, count); break;
      case 6: outer_tile<T, UV, 6>(to, width, values + k, stride, gates, row, count); break;
      case 8: outer_tile<T, UV, (many ? 8 : 1)>(to, width, values + k, stride, gates, row, count); break;
      case 12: outer_tile<T, UV, (many ? 12 : 1)>(to, width, values + k, stride, gates, row, count); break;
    }
    k += n;
  }
}

template <class T>
void outer(T* sums, i64 width, const T* values, i64 depth, i64 stride, const T* gates, i64 row,
           i64 count) {
  const int lanes = Vec<T>::lanes;
  i64 g = 0;
  for (; g + 2 * lanes <= width; g += 2 * lanes)
    outer_strip<T, 2>(sums + g, width, values, depth, stride, gates + g, row, count);
  if (g < width) outer_strip<T, 1>(sums + g, width, values, depth, stride, gates + g, row, count);
}

// sums[g] += sum over n of gates[n][g]
template <class T>
void column_sums(T* sums, i64 width, const T* gates, i64 row, i64 count) {
  typedef typename Vec<T>::v V;
  for (i64 g = 0; g < width; g += Vec<T>::lanes) {
    V even = {}, odd = {};
    i64 n = 0;
    for (; n + 2 <= count; n += 2) {
      even += load(gates + g + n * row);
      odd += load(gates + g + (n + 1) * row);
    }
    if (n < count) even += load(gates + g + n * row);
    store(sums + g, load(sums + g) + (even + odd));
  }
}

template <class T, int UV>
RNNF_INLINE void input_tiles(const Backward<T>& f, const BackStep<T>& s, i64 unit, const T* gates,
                             i64 depth) {
  const int lanes = Vec<T>::lanes;
  const rnnf_backward_args& a = *f.a;
  alignas(64) T sums[32 * lanes];
  Product<T> p;
  memset(&p, 0, sizeof p);
  p.w1 = f.w_input + unit * lanes * depth;
  p.stride1 = f.row;
  p.count1 = depth;
  for (i64 column = 0; column < s.columns;) {
    const i64 n = next_tile(s.columns - column, UV);
    p.rows1 = gates + column * f.row;
    product<T, UV>(n, p, sums);
    for (i64 c = 0; c < n; c++)
      for (int v = 0; v < UV; v++) {
        const i64 start = (unit + v) * lanes, real = a.inputs - start;
        T* to = f.dx(s.first + column + c, s.t) + start;
        typename Vec<T>::v dx = load(sums + (c * UV + v) * lanes);
        if (a.dx_add) dx += load(to, real);
        store(to, dx, real);
      }
    column += n;
  }
}

// Input gradients of one step: its gate gradients times W_ih; `depth` of them, from `gates` on.
template <class T>
void input_gradient(const Backward<T>& f, const BackStep<T>& s, const T* gates, i64 depth) {
  const int lanes = Vec<T>::lanes;
  const rnnf_backward_args& a = *f.a;
  if (2 * a.inputs <= lanes) {  // lanes over gates, a sum across lanes at the end
    for (i64 c = 0; c < s.columns; c++)
      for (i64 i = 0; i < a.inputs; i++) {
        typename Vec<T>::v acc = {};
        for (i64 g = 0; g < depth; g += lanes)
          acc += load(f.w_input + i * depth + g) * load(gates + c * f.row + g);
        T* to = f.dx(s.first + c, s.t) + i;
        *to = (a.dx_add ? *to : T(0)) + sum<T>(acc);
      }
    return;
  }
  const i64 units = ceil_div(a.inputs, lanes);
  i64 unit = 0;
  for (; unit + 2 <= units; unit += 2) input_tiles<T, 2>(f, s, unit, gates, depth);
  if (unit < units) input_tiles<T, 1>(f, s, unit, gates, depth);
}

template <class T, class Cell>
void pack_input_weights(const Backward<T>& f, T* to) {
  const rnnf_backward_args& a = *f.a;
  const T* w = reinterpret_cast<const T*>(a.w_ih);
  if (2 * a.inputs > Vec<T>::lanes)
    return pack_transposed<T, Cell>(f, to, w, a.inputs, Cell::input_first, Cell::input_slots);
  for (i64 i = 0; i < a.inputs; i++)
    for (int slot = 0; slot < Cell::input_slots; slot++)
      for (i64 u = 0; u < f.padded; u++, to++)
        *to = u < a.hidden
                  ? w[(Cell::gate(slot + Cell::input_first) * a.hidden + u) * a.inputs + i]
                  : T(0);
}

// Where the sums of a task lie: (hidden, state slots), (inputs, input slots), (slots), (3) times padded.
template <class T, class Cell>
struct Sums {
  T *state, *input, *bias, *peephole;
  Sums(const Backward<T>& f, i64 task) {
    state = f.partial + task * f.partial_size;
    input = state + f.a->hidden * Cell::state_slots * f.padded;
    bias = input + f.a->inputs * Cell::input_slots * f.padded;
    peephole = bias + Cell::slots * f.padded;
  }
  static i64 size(const Backward<T>& f) {
    return (f.a->hidden * Cell::state_slots + f.a->inputs * Cell::input_slots + Cell::slots + 3) *
           f.padded;
  }
};

template <class T>
RNNF_INLINE void to_lanes(const Backward<T>& f, T* to, i64 from, i64 first, i64 columns) {
  const int lanes = Vec<T>::lanes;
  if (from)
    for (i64 b = 0; b < columns; b++)
      for (i64 u = 0; u < f.a->hidden; u++)
        to[((u / lanes) * columns + b) * lanes + u % lanes] =
            reinterpret_cast<const T*>(from)[(first + b) * f.a->hidden + u];
}

template <class T, class Cell>
void backward_block(const Backward<T>& f, i64 task, i64 first, i64 columns, i64 chunk, T* memory) {
  const int lanes = Vec<T>::lanes;
  const rnnf_backward_args& a = *f.a;
  const Sums<T, Cell> sums(f, task);
  BackStep<T> s;
  memset(&s, 0, sizeof s);
  s.first = first;
  s.columns = columns;
  s.value_row = f.value_row(a.hidden);
  s.later = nullptr;
  s.carry = memory;
  s.dc = s.carry + columns * f.padded;
  s.dpeephole = s.dc + columns * f.padded;
  T* gates = s.dpeephole + 3 * f.padded;
  T* values = gates + chunk * columns * f.row;
  memset(memory, 0, size_t(2 * columns * f.padded) * sizeof(T));
  to_lanes(f, s.carry, a.dh_n, first, columns);
  to_lanes(f, s.dc, a.dc_n, first, columns);
  for (i64 end = a.time; end > 0;) {
    const i64 steps = smaller(chunk, end);
    i64 kept = 0;  // steps whose states finish() has copied to values
    memset(s.dpeephole, 0, size_t(3 * f.padded) * sizeof(T));
    for (i64 n = 0; n < steps; n++) {
      s.step = end - 1 - n;
      s.t = f.time_of(s.step);
      s.gates = gates + n * columns * f.row;
      s.last = s.step == a.time - 1;
      const bool keep = a.dw_ih && Cell::reads >= 0 && n >= Cell::reads && s.value_row >= f.padded;
      s.values = keep ? values + (n - Cell::reads) * columns * s.value_row : nullptr;
      if (keep) kept = n - Cell::reads + 1;
      state_step<T, Cell>(f, s, nullptr);
      if (a.dx)
        input_gradient(f, s, s.gates + Cell::input_first * f.padded, Cell::input_slots * f.padded);
      s.later = s.gates;
    }
    if (a.dw_ih) {
      // Copies of states and inputs: rows of torch's tensors may all fall into the same cache sets.
      i64 stride = s.value_row, count = kept * columns;
      for (i64 n = kept; n < steps; n++)
        for (i64 b = first; b < first + columns; b++)
          if (const T* before = f.state_before(end - 1 - n, b))
            memcpy(values + count++ * stride, before, size_t(a.hidden) * sizeof(T));
      if (end == steps && !a.h0) count = (steps - 1) * columns;  // the first step begins at zero
      outer(sums.state, Cell::state_slots * f.padded, values, a.hidden, stride, gates, f.row, count);
      stride = f.value_row(a.inputs);
      count = 0;
      for (i64 n = 0; n < steps; n++)
        for (i64 b = first; b < first + columns; b++)
          memcpy(values + count++ * stride, f.x(b, f.time_of(end - 1 - n)),
                 size_t(a.inputs) * sizeof(T));
      outer(sums.input, Cell::input_slots * f.padded, values, a.inputs, stride,
            gates + Cell::input_first * f.padded, f.row, count);
      column_sums(sums.bias, Cell::slots * f.padded, gates, f.row, count);
    }
    if (f.peephole)  // short sums first: float32 loses less
      for (i64 u = 0; u < 3 * f.padded; u++) sums.peephole[u] += s.dpeephole[u];
    end -= steps;
  }
  s.last = a.time == 0;
  s.values = nullptr;
  if (a.dh0) state_step<T, Cell>(f, s, reinterpret_cast<T*>(a.dh0));
  if (a.dc0)
    for (i64 b = 0; b < columns; b++)
      for (i64 u = 0; u < a.hidden; u++)
        reinterpret_cast<T*>(a.dc0)[(first + b) * a.hidden + u] =
            s.dc[((u / lanes) * columns + b) * lanes + u % lanes];
}

template <class T, class Cell>
void backward_task(void* context, i64 index) {
  Backward<T>& f = *static_cast<Backward<T>*>(context);
  const i64 begin = f.a->batch * index / f.tasks, end = f.a->batch * (index + 1) / f.tasks;
  memset(f.partial + index * f.partial_size, 0, size_t(f.partial_size) * sizeof(T));
  if (begin == end) return;
  const i64 widest = smaller(end - begin, backward_columns);
  // At least two steps: the later step's gradients are read while the earlier one's are written.
  i64 chunk = smaller(i64(chunk_bytes / sizeof(T)) / f.row, 384) / widest;
  chunk = larger(2, smaller(chunk, f.a->time));
  const size_t numbers = size_t(widest) * size_t(2 * f.padded + chunk * f.row) + size_t(3 * f.padded);
  const i64 wide = larger(f.value_row(f.a->hidden), f.value_row(f.a->inputs));
  T* memory = static_cast<T*>(f.services->scratch(
      1, (numbers + size_t(chunk * widest) * size_t(wide)) * sizeof(T) + vector_bytes));
  if (!memory) {
    f.failed = 1;
    return;
  }
  for (i64 first = begin; first < end; first += backward_columns)
    backward_block<T, Cell>(f, index, first, smaller(end - first, backward_columns), chunk, memory);
}

// to[gate, u][k] = sum over tasks of sums[k][slot, u]
template <class T, class Cell>
void gather(const Backward<T>& f, T* to, const T* sums, i64 depth, int first, int slots) {
  const i64 width = slots * f.padded, hidden = f.a->hidden;
  for (i64 task = 1; task < f.tasks; task++) {
    T* into = const_cast<T*>(sums);
    const T* other = sums + task * f.partial_size;
    for (i64 n = 0; n < depth * width; n++) into[n] += other[n];
  }
  for (int slot = 0; slot < slots; slot++)
    transpose(to + Cell::gate(slot + first) * hidden * depth, depth, sums + slot * f.padded, width,
              depth, hidden);
}

template <class T, class Cell>
int backward_cell(const rnnf_backward_args* a, const rnnf_services* services) {
  const int lanes = Vec<T>::lanes;
  Backward<T> f;
  memset(&f, 0, sizeof f);
  f.a = a;
  f.services = services;
  f.units = ceil_div(a->hidden, lanes);
  f.padded = f.units * lanes;
  f.row = Cell::slots * f.padded + lanes;  // an odd number of lines: rows spread over all cache sets
  f.tasks = larger(1, smaller(a->threads, a->batch));
  f.partial_size = Sums<T, Cell>::size(f);
  const i64 state_size = f.padded * Cell::state_slots * f.padded;
  const i64 input_size = (a->inputs + 2 * lanes) * Cell::input_slots * f.padded;
  T* memory = static_cast<T*>(services->scratch(
      0, size_t(state_size + input_size + 3 * f.padded + f.tasks * f.partial_size) * sizeof(T)));
  if (!memory) return 1;
  pack_transposed<T, Cell>(f, memory, reinterpret_cast<const T*>(a->w_hh), a->hidden, 0,
                           Cell::state_slots);
  f.w_state = memory;
  f.w_input = memory + state_size;
  if (a->dx) pack_input_weights<T, Cell>(f, memory + state_size);
  T* peephole = memory + state_size + input_size;
  f.partial = peephole + 3 * f.padded;
  if (a->peephole) {
    memset(peephole, 0, size_t(3 * f.padded) * sizeof(T));
    for (int gate = 0; gate < 3; gate++)
      memcpy(peephole + gate * f.padded, reinterpret_cast<const T*>(a->peephole) + gate * a->hidden,
             size_t(a->hidden) * sizeof(T));
    f.peephole = peephole;
  }
  services->parallel(backward_task<T, Cell>, &f, f.tasks);
  if (f.failed) return 1;
  if (a->dw_ih) {
    const Sums<T, Cell> sums(f, 0);
    gather<T, Cell>(f, reinterpret_cast<T*>(a->dw_hh), sums.state, a->hidden, 0, Cell::state_slots);
    gather<T, Cell>(f, reinterpret_cast<T*>(a->dw_ih), sums.input, a->inputs, Cell::input_first,
                    Cell::input_slots);
    if (a->db_hh) {
      T* db_ih = reinterpret_cast<T*>(a->db_ih);
      T* db_hh = reinterpret_cast<T*>(a->db_hh);
      gather<T, Cell>(f, db_hh, sums.bias, 1, 0, Cell::state_slots);
      if (Cell::input_first)
        for (i64 task = 1; task < f.tasks; task++) {
          // gather() adds the tasks' sums once; the slots of the state are already added
          T* into = sums.bias + Cell::state_slots * f.padded;
          for (i64 u = 0; u < f.padded; u++) into[u] += into[task * f.partial_size + u];
        }
      for (int slot = 0; slot < Cell::input_slots; slot++)
        memcpy(db_ih + Cell::gate(slot + Cell::input_first) * a->hidden,
               sums.bias + (slot + Cell::input_first) * f.padded, size_t(a->hidden) * sizeof(T));
    }
    if (a->dpeephole)
      for (int gate = 0; gate < 3; gate++)
        for (i64 u = 0; u < a->hidden; u++) {
          T total = 0;
          for (i64 task = 0; task < f.tasks; task++)
            total += sums.peephole[task * f.partial_size + gate * f.padded + u];
          reinterpret_cast<T*>(a->dpeephole)[gate * a->hidden + u] = total;
        }
  }
  return 0;
}

template <class T>
int backward(const rnnf_backward_args* a, const rnnf_services* services) {
  switch (a->cell) {
    case RNNF_RNN:
      return backward_cell<T, VanillaBackward<T>>(a, services);
    case RNNF_LSTM:
      return backward_cell<T, LSTMBackward<T>>(a, services);
    case RNNF_GRU:
      return backward_cell<T, GRUBackward<T>>(a, services);
  }
  return 2;
}

}  // namespace
