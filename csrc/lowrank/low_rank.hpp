// Preconditioners M = gamma I + B K B^H: a multiple of the identity, corrected on the span of a few columns.
//
// L-BFGS in its compact form, Ritz and Nystroem differ in the columns and in the small matrix K alone. Applied by itself
// M moves 2 k + 3 vectors for k columns, in two sweeps: c = B^H r, then z = gamma r + B (K c). A solver spares itself z:
//
//   {r -= alpha v;  r.r, r_old.r, c = B^H r}   k + 3       d = K c;  r.z = gamma r.r + c.d
//   {x += alpha p;  p = (gamma r + B d) + beta p}   k + 5
#pragma once

#include <stddef.h>

#include <vector>

#include "kernels/table.hpp"

namespace krylov {

class LowRank {
 public:
  // For vectors of n elements and a panel of at most `capacity` columns.
  LowRank(int64_t n, Dtype dtype, Storage storage, int capacity)
      : n_(n), dtype_(dtype), storage_(storage), capacity_(capacity) {}

  // K by rows, Hermitian. The columns stay where they are.
  void set(std::vector<void*> columns, double gamma, std::vector<Complex> k);

  int64_t size() const { return n_; }
  Dtype dtype() const { return dtype_; }
  int capacity() const { return capacity_; }
  int count() const { return static_cast<int>(columns_.size()); }
  double gamma() const { return gamma_; }
  Panel panel() const { return {storage_, count(), columns_.data()}; }
  // Grows with every change.
  int64_t version() const { return version_; }

  // weights = gamma, d with d = K c; returns c.d.
  Complex weigh(const Complex* c, Complex* weights) const;

  // z = M r
  void apply(const Table& table, const void* r, void* z) const;

 private:
  int64_t n_;
  Dtype dtype_;
  Storage storage_;
  int capacity_;
  int64_t version_ = 0;
  double gamma_ = 1.0;
  std::vector<void*> columns_;
  std::vector<Complex> k_;
};

}  // namespace krylov
