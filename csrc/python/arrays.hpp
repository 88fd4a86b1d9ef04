// The array types that cross the boundary, and the checks that they are what a recurrence can use without a copy.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "core/types.hpp"

namespace krylov {

namespace py = pybind11;

inline int dtype_number(Dtype t) {
  using Api = py::detail::npy_api;
  switch (t) {
    case Dtype::float32:
      return Api::NPY_FLOAT_;
    case Dtype::float64:
      return Api::NPY_DOUBLE_;
    case Dtype::complex64:
      return Api::NPY_CFLOAT_;
    default:
      return Api::NPY_CDOUBLE_;
  }
}

inline Dtype dtype_from(int code) {
  if (code < 0 || code >= kDtypes) throw py::value_error("unknown dtype code");
  return static_cast<Dtype>(code);
}

inline Dtype dtype_of(const py::array& a) {
  for (int code = 0; code < kDtypes; ++code)
    if (a.dtype().num() == dtype_number(static_cast<Dtype>(code))) return static_cast<Dtype>(code);
  throw py::type_error("expected float32, float64, complex64 or complex128, got " +
                       py::str(a.dtype()).cast<std::string>());
}

// A vector of n elements side by side, of shape (n,) or (n, 1) or (1, n).
inline bool is_plain_vector(py::handle object, int64_t n, Dtype dtype) {
  if (!py::isinstance<py::array>(object)) return false;
  const auto* a = py::detail::array_proxy(object.ptr());
  const auto* d = py::detail::array_descriptor_proxy(a->descr);
  if (d->type_num != dtype_number(dtype) || d->byteorder == '>') return false;
  int64_t size = 1;
  for (int k = 0; k < a->nd; ++k) size *= a->dimensions[k];
  if (size != n || a->nd < 1) return false;
  if (a->nd == 1) return n < 2 || a->strides[0] == item_size(dtype);
  return a->nd == 2 && (a->dimensions[0] == 1 || a->dimensions[1] == 1) &&
         py::detail::check_flags(object.ptr(), py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_);
}

inline int dimensions_of(py::handle array) { return py::detail::array_proxy(array.ptr())->nd; }

inline bool is_writable(py::handle object) {
  return py::detail::check_flags(object.ptr(), py::detail::npy_api::NPY_ARRAY_WRITEABLE_);
}

inline void* data_of(py::handle object) { return py::detail::array_proxy(object.ptr())->data; }

}  // namespace krylov
