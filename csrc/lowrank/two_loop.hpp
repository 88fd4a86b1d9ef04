// The two-loop recursion of L-BFGS, which defines what the compact form must give (Nocedal 1980; Nocedal and Wright
// 2006, algorithm 7.4). 10 m + 4 vectors move, in 2 m sweeps that depend on each other.
#pragma once

#include "kernels/table.hpp"

namespace krylov {

struct PairsView {
  Storage storage;
  int count;            // oldest first
  void* const* s;       // directions
  void* const* y;       // their products
  const double* moved;  // t_i: the product is y_i + t_i s_i
  const double* sy;     // s_i.(y_i + t_i s_i)
};

// z = H r, from H0 = gamma I.
void two_loop(const Table& table, Dtype dtype, int64_t n, const PairsView& pairs, double gamma,
              const void* r, void* z);

}  // namespace krylov
