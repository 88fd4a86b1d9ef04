// y = A x for a matrix in compressed rows, threaded, with the sum w.y in its epilogue.
#pragma once

#include "core/types.hpp"

namespace krylov {

struct Csr {
  int64_t rows, columns;
  Dtype dtype;  // of the entries and of both vectors
  bool wide;    // int64 row pointers and column indices, else int32
  const void* row_start;
  const void* column;
  const void* entry;
};

// Scratch for csr_multiply: Complex entries.
int64_t csr_partials_size(int64_t rows);

// Where weight is not null, *dot = sum conj(w_i) y_i, summed over fixed blocks of rows: the same bits for any number
// of threads. Entries are summed in float64.
void csr_multiply(const Csr& matrix, const void* x, void* y, const void* weight, Complex* dot,
                  Complex* partials);

}  // namespace krylov
