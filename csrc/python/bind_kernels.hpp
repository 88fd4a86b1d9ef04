#pragma once

#include <string>

#include "kernels/table.hpp"
#include "python/arrays.hpp"

namespace krylov {

// By name; raises ValueError where there is none.
const Table& table_named(const std::string& name);
PassId pass_named(const std::string& name);

void bind_kernels(py::module_& m);

}  // namespace krylov
