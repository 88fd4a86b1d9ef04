#include "python/matrix.hpp"

#include <pybind11/complex.h>

#include <complex>
#include <vector>

namespace krylov {
namespace {

bool is_contiguous(const py::array& a) {
  return a.ndim() == 1 && (a.size() < 2 || a.strides(0) == a.itemsize());
}

// Every column index must lie inside x: an index beyond it would read foreign memory.
template <class Index>
bool indices_valid(const Csr& a, int64_t entries) {
  const auto* start = static_cast<const Index*>(a.row_start);
  const auto* column = static_cast<const Index*>(a.column);
  if (start[0] != 0) return false;
  for (int64_t i = 0; i < a.rows; ++i)
    if (start[i + 1] < start[i]) return false;
  if (start[a.rows] > entries) return false;
  Index smallest = 0, largest = 0;
  for (int64_t k = 0; k < start[a.rows]; ++k) {
    smallest = column[k] < smallest ? column[k] : smallest;
    largest = column[k] > largest ? column[k] : largest;
  }
  return smallest >= 0 && (start[a.rows] == 0 || largest < a.columns);
}

}  // namespace

CsrMatrix::CsrMatrix(int64_t columns, py::array row_start, py::array column, py::array entry)
    : row_start_(std::move(row_start)), column_(std::move(column)), entry_(std::move(entry)) {
  if (!is_contiguous(row_start_) || !is_contiguous(column_) || !is_contiguous(entry_))
    throw py::value_error("indptr, indices and data must be contiguous vectors");
  if (row_start_.size() < 1 || column_.size() != entry_.size())
    throw py::value_error(
        "indices and data must have the same length, and indptr at least one entry");
  const auto width = row_start_.dtype().itemsize();
  if (row_start_.dtype().kind() != 'i' || column_.dtype().kind() != 'i' ||
      column_.dtype().itemsize() != width || (width != 4 && width != 8))
    throw py::type_error("indptr and indices must both be int32 or both be int64");
  view_ = {row_start_.size() - 1, columns,        dtype_of(entry_), width == 8,
           row_start_.data(),     column_.data(), entry_.data()};
  const bool valid = view_.wide ? indices_valid<int64_t>(view_, entry_.size())
                                : indices_valid<int32_t>(view_, entry_.size());
  if (!valid) throw py::value_error("the sparse matrix is corrupt: indptr or indices out of range");
}

void bind_matrix(py::module_& m) {
  py::class_<CsrMatrix, std::shared_ptr<CsrMatrix>>(m, "CsrMatrix")
      .def(py::init<int64_t, py::array, py::array, py::array>(), py::arg("columns"),
           py::arg("indptr"), py::arg("indices"), py::arg("data"))
      .def(
          "multiply",
          [](const CsrMatrix& self, const py::array& x, py::array& y, const py::object& weight) {
            const Csr& a = self.view();
            if (!is_plain_vector(x, a.columns, a.dtype) || !is_plain_vector(y, a.rows, a.dtype) ||
                !is_writable(y))
              throw py::value_error(
                  "x and y must be contiguous vectors of the matrix's dtype and shape");
            const bool weighted = !weight.is_none();
            if (weighted && !is_plain_vector(weight, a.rows, a.dtype))
              throw py::value_error(
                  "weight must be a contiguous vector of the matrix's dtype and rows");
            std::vector<Complex> partials(static_cast<size_t>(csr_partials_size(a.rows)));
            Complex dot;
            const void *x_data = x.data(), *w_data = weighted ? data_of(weight) : nullptr;
            void* y_data = y.mutable_data();
            {
              py::gil_scoped_release nogil;
              csr_multiply(a, x_data, y_data, w_data, &dot, partials.data());
            }
            return std::complex<double>(dot.re, dot.im);
          },
          py::arg("x"), py::arg("y"), py::arg("weight") = py::none());
}

}  // namespace krylov
