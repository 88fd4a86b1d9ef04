// The solvers of A x = b by name. A new solver is one file that defines make_<name>, and its line here.
#pragma once

#include <memory>

#include "solvers/system.hpp"

#define KRYLOV_SOLVERS(X) \
  X(cg) \
  X(flexible_cg) \
  X(bicgstab) \
  X(neumann)

namespace krylov {

using Maker = std::unique_ptr<Recurrence> (*)(int64_t n, Dtype dtype, const SystemOptions& options);

#define X(name) \
  std::unique_ptr<Recurrence> make_##name(int64_t n, Dtype dtype, const SystemOptions& options);
KRYLOV_SOLVERS(X)
#undef X

// Null where there is no solver of that name.
Maker find_solver(const char* name);

}  // namespace krylov
