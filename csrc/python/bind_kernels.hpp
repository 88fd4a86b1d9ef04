#pragma once

#include "python/arrays.hpp"

namespace krylov {

void bind_kernels(py::module_& m);

}  // namespace krylov
