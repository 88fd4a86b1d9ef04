#include "kernels/parallel.hpp"

#include <pthread.h>

#include <atomic>

#if defined(KRYLOV_THREADS_OPENMP)
#include <omp.h>
#elif defined(KRYLOV_THREADS_STD)
#include <cstdlib>
#include <thread>
#include <vector>
#endif

namespace krylov {
namespace {

// libgomp's pool does not survive a fork: a child that enters a parallel region would wait for threads that are gone.
std::atomic<bool> forked{false};

const bool fork_handler_installed = [] {
  pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });
  return true;
}();

}  // namespace

#if defined(KRYLOV_THREADS_OPENMP)

const char* thread_backend() { return "OpenMP"; }

int thread_count() {
  if (forked.load(std::memory_order_relaxed) || omp_in_parallel()) return 1;
  return omp_get_max_threads();
}

void for_ranges(int64_t count, bool parallel, RangeTask task, void* context) {
  const int threads = parallel ? thread_count() : 1;
  if (threads == 1 || count < 2) {
    task(context, 0, count);
    return;
  }
#pragma omp parallel num_threads(threads)
  {
    const int64_t id = omp_get_thread_num(), team = omp_get_num_threads();
    task(context, count * id / team, count * (id + 1) / team);
  }
}

#elif defined(KRYLOV_THREADS_STD)

// For ThreadSanitizer, which cannot see the synchronisation inside libgomp.
const char* thread_backend() { return "std::thread"; }

int thread_count() {
  static const int requested = [] {
    const char* text = std::getenv("OMP_NUM_THREADS");
    const int value = text ? static_cast<int>(std::strtol(text, nullptr, 10)) : 0;
    return value > 0 ? value : static_cast<int>(std::thread::hardware_concurrency());
  }();
  return forked.load(std::memory_order_relaxed) || requested < 1 ? 1 : requested;
}

void for_ranges(int64_t count, bool parallel, RangeTask task, void* context) {
  const int64_t team = parallel && count > 1 ? thread_count() : 1;
  std::vector<std::thread> others;
  for (int64_t id = 1; id < team; ++id)
    others.emplace_back(task, context, count * id / team, count * (id + 1) / team);
  task(context, 0, count / team);
  for (auto& thread : others) thread.join();
}

#else

const char* thread_backend() { return "serial"; }
int thread_count() { return 1; }
void for_ranges(int64_t count, bool, RangeTask task, void* context) { task(context, 0, count); }

#endif

}  // namespace krylov
