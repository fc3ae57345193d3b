// What dispatch.cpp and the per-ISA objects of kernels.cpp share: plain C types only.
#pragma once
#include <stddef.h>
#include <stdint.h>

typedef int64_t i64;

// A call: sizes, strides (in elements) and addresses, all as int64, in this order. Python packs them
// with struct.pack; see rnnforecast/nn/recurrence.py. An address of 0 means "not given".
enum rnnf_cell { RNNF_RNN = 0, RNNF_LSTM = 1, RNNF_GRU = 2 };

struct rnnf_forward_args {
  i64 cell, batch, time, inputs, hidden, reverse, threads;
  i64 x, x_batch, x_time;        // features are contiguous
  i64 h0, c0;                    // (batch, hidden), contiguous
  i64 w_ih, w_hh, b_ih, b_hh;    // torch's layouts, contiguous
  i64 peephole;                  // (3, hidden): input, forget, output gate
  i64 out, out_batch, out_time;  // features are contiguous
  i64 h_n, c_n;                  // (batch, hidden), contiguous
  i64 saved;                     // rnnf_saved_size elements, 0 for inference
};

struct rnnf_backward_args {
  i64 cell, batch, time, inputs, hidden, reverse, threads;
  i64 x, x_batch, x_time;
  i64 h0, c0;
  i64 w_ih, w_hh;
  i64 peephole;
  i64 out, out_batch, out_time;
  i64 saved;
  i64 dout, dout_batch, dout_time;  // features are contiguous
  i64 dh_n, dc_n;                   // (batch, hidden), contiguous
  i64 dx, dx_batch, dx_time;        // features are contiguous
  i64 dx_add;                       // 1: add to what dx holds (the second direction)
  i64 dh0, dc0;                     // (batch, hidden), contiguous
  i64 dw_ih, dw_hh, db_ih, db_hh;   // all or none
  i64 dpeephole;
};

// Services of dispatch.cpp, so that no inline function of the C++ library is compiled with the flags
// of one instruction set and linked into the code of another.
struct rnnf_services {
  // Run task(context, 0..n-1), each once, on up to n threads.
  void (*parallel)(void (*task)(void*, i64), void* context, i64 n);
  // Memory of the calling thread that stays: two callers in one thread use two slots.
  void* (*scratch)(int slot, size_t bytes);
};

struct rnnf_table {
  const char* name;
  i64 (*saved_size)(i64 cell, i64 batch, i64 time, i64 hidden, i64 is64);
  int (*forward_f32)(const rnnf_forward_args*, const rnnf_services*);
  int (*forward_f64)(const rnnf_forward_args*, const rnnf_services*);
  int (*backward_f32)(const rnnf_backward_args*, const rnnf_services*);
  int (*backward_f64)(const rnnf_backward_args*, const rnnf_services*);
  double (*fma_loop)(i64 rounds, i64 is64);  // returns the floating point operations done
};
