#include "python/bind_kernels.hpp"
#include "python/matrix.hpp"
#include "python/panel.hpp"
#include "python/run.hpp"

PYBIND11_MODULE(_core, m) {
  m.doc() = "The native core of krylov: kernels, recurrences, sparse products.";
  m.attr("__version__") = KRYLOV_VERSION;
  m.attr("compiler") = KRYLOV_COMPILER;
  krylov::bind_kernels(m);
  krylov::bind_matrix(m);
  krylov::bind_panel(m);
  krylov::bind_run(m);
}
