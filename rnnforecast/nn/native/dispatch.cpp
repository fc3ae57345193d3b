// Public symbols of the native library, the choice of the instruction set, and the threads.
//
// Build matrix (one shared library):
//   all:          -std=c++17 -O3 -fPIC -fvisibility=hidden -fno-exceptions -fno-rtti -fno-math-errno
//                 -fno-trapping-math -ffp-contract=fast -pthread
//   dispatch.cpp  on x86-64: -DRNNF_X86=1, no -m flags; elsewhere nothing more
//   kernels.cpp   once per instruction set:
//     x86-64:  -DRNNF_ISA=avx512  -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma
//              -DRNNF_ISA=avx2    -mavx2 -mfma
//              -DRNNF_ISA=generic
//     others:  -DRNNF_ISA=generic
//   any other .cpp here: once, portable flags.
// Link: -shared -pthread.
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common.h"

#define RNNF_EXPORT extern "C" __attribute__((visibility("default")))

extern "C" const rnnf_table rnnf_table_generic;
#ifdef RNNF_X86
extern "C" const rnnf_table rnnf_table_avx2;
extern "C" const rnnf_table rnnf_table_avx512;
#endif

namespace {

bool supported(const rnnf_table* table) {
#ifdef RNNF_X86
  __builtin_cpu_init();
  if (table == &rnnf_table_avx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("fma");
  if (table == &rnnf_table_avx2)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return table == &rnnf_table_generic;
}

const rnnf_table* const tables[] = {
#ifdef RNNF_X86
    &rnnf_table_avx512, &rnnf_table_avx2,
#endif
    &rnnf_table_generic};

const rnnf_table* best() {
  for (const rnnf_table* table : tables)
    if (supported(table)) return table;
  return &rnnf_table_generic;
}

const rnnf_table* chosen = nullptr;

const rnnf_table* table() {
  const rnnf_table* now = __atomic_load_n(&chosen, __ATOMIC_ACQUIRE);
  if (!now) {
    now = best();
    __atomic_store_n(&chosen, now, __ATOMIC_RELEASE);
  }
  return now;
}

// ---- memory that stays with its thread ----

struct Slots {
  void* at[4];
  size_t size[4];
};
pthread_key_t slots_key;
pthread_once_t slots_once = PTHREAD_ONCE_INIT;

void free_slots(void* value) {
  Slots* slots = static_cast<Slots*>(value);
  for (void* at : slots->at) free(at);
  free(slots);
}

void make_slots_key() { pthread_key_create(&slots_key, free_slots); }

void* scratch(int slot, size_t bytes) {
  pthread_once(&slots_once, make_slots_key);
  Slots* slots = static_cast<Slots*>(pthread_getspecific(slots_key));
  if (!slots) {
    slots = static_cast<Slots*>(calloc(1, sizeof(Slots)));
    if (!slots) return nullptr;
    pthread_setspecific(slots_key, slots);
  }
  if (slots->size[slot] < bytes) {
    free(slots->at[slot]);
    slots->size[slot] = 0;
    size_t rounded = (bytes + bytes / 4 + 4095) & ~size_t(4095);
    if (posix_memalign(&slots->at[slot], 4096, rounded)) {
      slots->at[slot] = nullptr;
      return nullptr;
    }
    slots->size[slot] = rounded;
  }
  return slots->at[slot];
}

// ---- a pool of threads that starts when it is first needed ----

struct Job {
  void (*task)(void*, i64);
  void* context;
  i64 n, next, open;
};

const int max_workers = 255;

struct Pool {
  pthread_mutex_t lock;
  pthread_cond_t wake, done;
  Job* job;
  i64 generation;
  int workers;
  pid_t process;
};

Pool* pool = nullptr;
pthread_mutex_t pool_user = PTHREAD_MUTEX_INITIALIZER;  // one parallel call at a time

void work(Pool* p, Job* job) {  // with p->lock held
  while (job->next < job->n) {
    i64 index = job->next++;
    pthread_mutex_unlock(&p->lock);
    job->task(job->context, index);
    pthread_mutex_lock(&p->lock);
    if (--job->open == 0) pthread_cond_broadcast(&p->done);
  }
}

void* worker(void* value) {
  Pool* p = static_cast<Pool*>(value);
  i64 seen = 0;
  pthread_mutex_lock(&p->lock);
  for (;;) {
    while (p->generation == seen) pthread_cond_wait(&p->wake, &p->lock);
    seen = p->generation;
    if (p->job) work(p, p->job);
  }
  return nullptr;
}

void serial(void (*task)(void*, i64), void* context, i64 n) {
  for (i64 index = 0; index < n; index++) task(context, index);
}

void parallel(void (*task)(void*, i64), void* context, i64 n) {
  if (n <= 1) return serial(task, context, n);
  // Another Python thread is in here: do the work alone rather than wait.
  if (pthread_mutex_trylock(&pool_user)) return serial(task, context, n);
  if (!pool || pool->process != getpid()) {  // a forked child has no threads: begin anew
    pool = static_cast<Pool*>(calloc(1, sizeof(Pool)));
    pthread_mutex_init(&pool->lock, nullptr);
    pthread_cond_init(&pool->wake, nullptr);
    pthread_cond_init(&pool->done, nullptr);
    pool->process = getpid();
  }
  Pool* p = pool;
  pthread_mutex_lock(&p->lock);
  while (p->workers < n - 1 && p->workers < max_workers) {
    pthread_t thread;
    if (pthread_create(&thread, nullptr, worker, p)) break;
    pthread_detach(thread);
    p->workers++;
  }
  Job job = {task, context, n, 0, n};
  p->job = &job;
  p->generation++;
  pthread_cond_broadcast(&p->wake);
  work(p, &job);
  while (job.open > 0) pthread_cond_wait(&p->done, &p->lock);
  p->job = nullptr;
  pthread_mutex_unlock(&p->lock);
  pthread_mutex_unlock(&pool_user);
}

void before_fork() { pthread_mutex_lock(&pool_user); }
void after_fork() { pthread_mutex_unlock(&pool_user); }

__attribute__((constructor)) void on_load() { pthread_atfork(before_fork, after_fork, after_fork); }

const rnnf_services services = {parallel, scratch};

}  // namespace

// The version of the argument blocks: Python refuses a library of another version.
RNNF_EXPORT i64 rnnf_abi() { return 1; }

RNNF_EXPORT const char* rnnf_isa() { return table()->name; }

// For tests: 0 if the instruction set exists here and is now in use. Buffers saved by a forward pass
// must be read by the backward pass of the same instruction set.
RNNF_EXPORT int rnnf_set_isa(const char* name) {
  for (const rnnf_table* candidate : tables)
    if (!strcmp(candidate->name, name) && supported(candidate)) {
      __atomic_store_n(&chosen, candidate, __ATOMIC_RELEASE);
      return 0;
    }
  return 1;
}

RNNF_EXPORT i64 rnnf_saved_size(i64 cell, i64 batch, i64 time, i64 hidden, i64 is64) {
  return table()->saved_size(cell, batch, time, hidden, is64);
}

RNNF_EXPORT int rnnf_forward_f32(const rnnf_forward_args* args) {
  return table()->forward_f32(args, &services);
}
RNNF_EXPORT int rnnf_forward_f64(const rnnf_forward_args* args) {
  return table()->forward_f64(args, &services);
}
RNNF_EXPORT int rnnf_backward_f32(const rnnf_backward_args* args) {
  return table()->backward_f32(args, &services);
}
RNNF_EXPORT int rnnf_backward_f64(const rnnf_backward_args* args) {
  return table()->backward_f64(args, &services);
}

// GFLOP/s that one core reaches in independent fused multiply-adds, over about `seconds`.
RNNF_EXPORT double rnnf_fma_peak(double seconds, i64 is64) {
  const rnnf_table* now = table();
  double operations = 0, elapsed = 0;
  timespec start, end;
  clock_gettime(CLOCK_MONOTONIC, &start);
  do {
    operations += now->fma_loop(100000, is64);
    clock_gettime(CLOCK_MONOTONIC, &end);
    elapsed = double(end.tv_sec - start.tv_sec) + 1e-9 * double(end.tv_nsec - start.tv_nsec);
  } while (elapsed < seconds);
  return operations / elapsed * 1e-9;
}
