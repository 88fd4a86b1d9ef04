// The solvers of A x = b by name. A new solver is one file, its maker declared here, and one line in registry.cpp.
#pragma once

#include <memory>

#include "solvers/system.hpp"

namespace krylov {

using Maker = std::unique_ptr<Recurrence> (*)(int64_t n, Dtype dtype, const SystemOptions& options);

std::unique_ptr<Recurrence> make_cg(int64_t n, Dtype dtype, const SystemOptions& options);
std::unique_ptr<Recurrence> make_flexible_cg(int64_t n, Dtype dtype, const SystemOptions& options);
std::unique_ptr<Recurrence> make_bicgstab(int64_t n, Dtype dtype, const SystemOptions& options);
std::unique_ptr<Recurrence> make_neumann(int64_t n, Dtype dtype, const SystemOptions& options);

struct Solver {
  const char* name;
  Maker make;
};

constexpr int kSolverCount = 4;
extern const Solver kSolvers[kSolverCount];
const Solver* find_solver(const char* name);

}  // namespace krylov
