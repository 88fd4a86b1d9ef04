// Threads for a range of independent blocks; safe after fork; serial where a fork-join would cost more than it saves.
#pragma once

#include <stdint.h>

namespace krylov {

// Threads that a parallel region would use now (1 in the child of a fork).
int thread_count();
const char* thread_backend();

// Calls task(context, first, last) on disjoint ranges that cover [0, count), one range a thread. `parallel` is the
// caller's judgement that the work is worth a fork-join.
using RangeTask = void (*)(void* context, int64_t first, int64_t last);
void for_ranges(int64_t count, bool parallel, RangeTask task, void* context);

template <class Body>
void for_ranges(int64_t count, bool parallel, Body body) {
  for_ranges(
      count, parallel,
      [](void* context, int64_t first, int64_t last) {
        (*static_cast<Body*>(context))(first, last);
      },
      &body);
}

}  // namespace krylov
