// A CSR matrix as C++ sees it: views into the arrays of a SciPy matrix, which are kept alive.
#pragma once

#include "python/arrays.hpp"
#include "sparse/csr.hpp"

namespace krylov {

class CsrMatrix {
 public:
  CsrMatrix(int64_t columns, py::array row_start, py::array column, py::array entry);
  const Csr& view() const { return view_; }

 private:
  py::array row_start_, column_, entry_;
  Csr view_;
};

void bind_matrix(py::module_& m);

}  // namespace krylov
