#include "solvers/registry.hpp"

#include <cstring>

namespace krylov {

Maker find_solver(const char* name) {
#define X(solver) \
  if (std::strcmp(name, #solver) == 0) return make_##solver;
  KRYLOV_SOLVERS(X)
#undef X
  return nullptr;
}

}  // namespace krylov
