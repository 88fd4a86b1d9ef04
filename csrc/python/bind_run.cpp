#include <pybind11/complex.h>
#include <pybind11/stl.h>

#include <complex>

#include "core/random.hpp"
#include "python/run.hpp"
#include "solvers/lanczos.hpp"
#include "solvers/registry.hpp"

namespace krylov {
namespace {

py::array_t<double> copy_of(const std::vector<double>& values) {
  return py::array_t<double>(static_cast<py::ssize_t>(values.size()), values.data());
}

std::unique_ptr<Run> make_run(const std::string& method, int64_t n, int dtype, double rtol,
                              double atol, int64_t maxiter, bool has_x0, bool preconditioned,
                              bool diagonal, int judge_every, bool verify, int on_curvature,
                              double radius, int max_restarts, bool track, double step,
                              std::shared_ptr<LowRankMemory> low_rank, bool learns) {
  const Maker make = find_solver(method.c_str());
  if (!make) throw py::value_error("unknown method " + method);
  SystemOptions o;
  o.rtol = rtol;
  o.atol = atol;
  o.maxiter = maxiter;
  o.has_x0 = has_x0;
  o.preconditioned = preconditioned;
  o.diagonal = diagonal;
  o.judge_every = judge_every;
  o.verify = verify;
  o.on_curvature = static_cast<OnCurvature>(on_curvature);
  o.radius = radius;
  o.max_restarts = max_restarts;
  o.track = track;
  o.step = step;
  o.learns = learns;
  if (low_rank) {
    if (low_rank->view().size() != n || low_rank->view().dtype() != dtype_from(dtype))
      throw py::value_error("the preconditioner does not fit the run");
    o.low_rank = &low_rank->view();
  }
  auto run = std::make_unique<Run>(make(n, dtype_from(dtype), o));
  run->keep(std::move(low_rank));
  return run;
}

}  // namespace

void bind_run(py::module_& m) {
  py::enum_<Request>(m, "Request")
      .value("DONE", Request::done)
      .value("MULTIPLY", Request::multiply)
      .value("PRECONDITION", Request::precondition)
      .value("JUDGE", Request::judge)
      .value("REDUCE", Request::reduce)
      .value("LEARN", Request::learn);

  py::enum_<Status>(m, "Status")
      .value("RUNNING", Status::running)
      .value("CONVERGED", Status::converged)
      .value("ITERATION_LIMIT", Status::iteration_limit)
      .value("NEGATIVE_CURVATURE", Status::negative_curvature)
      .value("TRUST_RADIUS", Status::trust_radius)
      .value("INDEFINITE_PRECONDITIONER", Status::indefinite_preconditioner)
      .value("BREAKDOWN_RHO", Status::breakdown_rho)
      .value("BREAKDOWN_OMEGA", Status::breakdown_omega)
      .value("BREAKDOWN", Status::breakdown)
      .value("STAGNATION", Status::stagnation)
      .value("DIVERGENCE", Status::divergence)
      .value("NON_FINITE", Status::non_finite)
      .value("STOPPED", Status::stopped);

  py::class_<Run>(m, "Run")
      .def(py::init(&make_run), py::arg("method"), py::arg("n"), py::arg("dtype"), py::kw_only(),
           py::arg("rtol") = 1e-5, py::arg("atol") = 0.0, py::arg("maxiter") = 0,
           py::arg("has_x0") = false, py::arg("preconditioned") = false,
           py::arg("diagonal") = false, py::arg("judge_every") = 0, py::arg("verify") = true,
           py::arg("on_curvature") = 0, py::arg("radius") = 0.0, py::arg("max_restarts") = 0,
           py::arg("track") = false, py::arg("step") = 0.0,
           py::arg("low_rank") = std::shared_ptr<LowRankMemory>(), py::arg("learns") = false)
      .def_static("lanczos",
                  [](int64_t n, int dtype, int steps, bool reorthogonalise) {
                    return std::make_unique<Run>(
                        std::make_unique<Lanczos>(n, dtype_from(dtype), steps, reorthogonalise));
                  })
      .def_static("calibrate", &Run::calibrate)
      .def("advance", &Run::advance)
      .def("set_partial_sums",
           [](Run& run, bool partial) { run.recurrence().set_partial_sums(partial); })
      .def("curvature", &Run::curvature)
      .def("stop", [](Run& run) { run.recurrence().stop(); })
      .def("set_vector", &Run::set_vector)
      .def_property_readonly("vectors", &Run::vectors)
      .def("set_matrix", &Run::set_matrix)
      .def("set_diagonal", &Run::set_diagonal)
      .def("set_low_rank", &Run::set_low_rank)
      .def("set_convert", &Run::set_convert)
      .def_property_readonly("slots",
                             [](Run& run) {
                               std::vector<std::string> names;
                               for (int k = 0; k < run.recurrence().vector_count(); ++k)
                                 names.emplace_back(run.recurrence().slot_name(k));
                               return names;
                             })
      .def_property_readonly("status", [](Run& run) { return run.recurrence().status(); })
      .def_property_readonly("iterations", [](Run& run) { return run.recurrence().iterations(); })
      .def_property_readonly("products", &Run::products)
      .def_property_readonly("restarts", [](Run& run) { return run.system().restarts(); })
      .def_property_readonly("b_norm", [](Run& run) { return run.system().b_norm(); })
      .def_property_readonly("sigma", [](Run& run) { return run.system().sigma(); })
      .def_property_readonly("residual_norm", [](Run& run) { return run.system().residual_norm(); })
      .def_property_readonly("true_residual_norm",
                             [](Run& run) { return run.system().true_residual_norm(); })
      .def_property_readonly("negative_curvatures",
                             [](Run& run) { return run.system().negative_curvatures(); })
      .def_property_readonly("ended_at_half_step",
                             [](Run& run) { return run.system().ended_at_half_step(); })
      .def_property_readonly("indefinite_preconditioner",
                             [](Run& run) { return run.system().indefinite_preconditioner(); })
      .def_property_readonly("direction_curvature",
                             [](Run& run) { return run.system().direction_curvature(); })
      .def_property_readonly("direction_slot",
                             [](Run& run) { return run.system().direction_slot(); })
      .def("residual_norm_at",
           [](Run& run, size_t k) { return run.recurrence().trace().residual_norms.at(k); })
      .def("quadratic_value_at",
           [](Run& run, size_t k) { return run.recurrence().trace().quadratic_values.at(k); })
      .def_property_readonly(
          "residual_norms",
          [](Run& run) { return copy_of(run.recurrence().trace().residual_norms); })
      .def_property_readonly(
          "quadratic_values",
          [](Run& run) { return copy_of(run.recurrence().trace().quadratic_values); })
      .def_property_readonly("alphas",
                             [](Run& run) { return copy_of(run.recurrence().trace().alphas); })
      .def_property_readonly("betas",
                             [](Run& run) { return copy_of(run.recurrence().trace().betas); })
      .def_property_readonly("curvatures",
                             [](Run& run) { return copy_of(run.recurrence().trace().curvatures); })
      .def_property_readonly("signs",
                             [](Run& run) { return copy_of(run.recurrence().trace().signs); })
      .def("launches",
           [](Run& run) {
             py::dict counts;
             for (int k = 0; k < kPassCount; ++k)
               if (const auto count = run.recurrence().launches(static_cast<PassId>(k)))
                 counts[kPasses[k].name] = count;
             if (const auto columns = run.recurrence().panel_columns())
               counts["panel_column"] = columns;
             return counts;
           })
      .def_property(
          "sums",
          [](Run& run) {
            std::vector<std::complex<double>> sums;
            for (int k = 0; k < run.recurrence().sum_count(); ++k)
              sums.emplace_back(run.recurrence().sums()[k].re, run.recurrence().sums()[k].im);
            return sums;
          },
          [](Run& run, const std::vector<std::complex<double>>& sums) {
            if (static_cast<int>(sums.size()) != run.recurrence().sum_count())
              throw py::value_error("wrong number of sums");
            for (size_t k = 0; k < sums.size(); ++k)
              run.recurrence().sums()[k] = {sums[k].real(), sums[k].imag()};
          });

  m.def(
      "slots",
      [](const std::string& method) {
        const auto run = make_run(method, 0, 0, 0, 0, 0, false, false, false, 0, false, 0, 0, 0,
                                  false, 0, {}, false);
        std::vector<std::string> names;
        for (int k = 0; k < run->recurrence().vector_count(); ++k)
          names.emplace_back(run->recurrence().slot_name(k));
        return names;
      },
      py::arg("method"));
  m.def(
      "fill_random",
      [](const py::array& vector, uint64_t seed) {
        if (!is_plain_vector(vector, vector.size(), dtype_of(vector)) || !is_writable(vector))
          throw py::value_error("expected a contiguous writable vector");
        fill_random(data_of(vector), vector.size(), dtype_of(vector), seed);
      },
      py::arg("vector"), py::arg("seed"));
}

}  // namespace krylov
