#include "solvers/registry.hpp"

#include <cstring>

namespace krylov {

const Solver kSolvers[kSolverCount] = {
    {"cg", make_cg},
    {"flexible_cg", make_flexible_cg},
    {"bicgstab", make_bicgstab},
    {"neumann", make_neumann},
};

const Solver* find_solver(const char* name) {
  for (const Solver& solver : kSolvers)
    if (std::strcmp(solver.name, name) == 0) return &solver;
  return nullptr;
}

}  // namespace krylov
