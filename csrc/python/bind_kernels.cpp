// The kernel tables, for build_config(), the tests and the benchmarks.
#include "python/bind_kernels.hpp"

#include <pybind11/complex.h>
#include <pybind11/stl.h>

#include <complex>
#include <string>
#include <vector>

#include "kernels/parallel.hpp"

namespace krylov {

const Table& table_named(const std::string& name) {
  const Table* table = find_table(name.c_str());
  if (!table) throw py::value_error("no table named '" + name + "' here; see tables()");
  return *table;
}

PassId pass_named(const std::string& name) {
  int id = 0;
  while (id < kPassCount && name != kPasses[id].name) ++id;
  if (id == kPassCount) throw py::value_error("no pass named '" + name + "'");
  return static_cast<PassId>(id);
}

namespace {

std::vector<std::string> table_names() {
  std::vector<std::string> names;
  for (int k = 0; k < usable_tables().count; ++k)
    names.emplace_back(usable_tables().entries[k].name);
  return names;
}

py::list describe_passes() {
  py::list rows;
  for (const PassInfo& pass : kPasses) {
    py::dict row;
    row["name"] = pass.name;
    row["vectors"] = pass.vectors;
    row["reads"] = pass.reads();
    row["writes"] = pass.writes();
    row["coefs"] = pass.coefs;
    row["sums"] = pass.sums;
    row["loads"] = pass.loaded;
    row["stores"] = pass.stored;
    rows.append(row);
  }
  return rows;
}

// The launch of a pass whose arguments have been checked.
struct Launch {
  PassCall call{};
  const Table* table = nullptr;
  Complex coefs[kMaxCoefs], sums[kMaxSums];
  std::vector<Complex> partials;
};

void prepare(Launch& launch, const std::string& table, const std::string& name,
             const std::vector<py::array>& vectors,
             const std::vector<std::complex<double>>& coefs) {
  launch.table = &table_named(table);
  const PassId id = pass_named(name);
  const PassInfo& pass = info(id);
  if (static_cast<int>(vectors.size()) != pass.vectors ||
      static_cast<int>(coefs.size()) != pass.coefs)
    throw py::value_error(name + " takes " + std::to_string(pass.vectors) + " vectors and " +
                          std::to_string(pass.coefs) + " coefficients");
  const Dtype dtype = dtype_of(vectors[0]);
  const int64_t n = vectors[0].size();
  launch.call = {id, dtype, n, {}, {}, launch.sums, nullptr};
  for (size_t k = 0; k < vectors.size(); ++k) {
    if (!is_plain_vector(vectors[k], n, dtype) ||
        ((pass.stored >> k & 1u) && !is_writable(vectors[k])))
      throw py::value_error(
          "vectors must be contiguous, of one size and dtype, and writable where stored");
    launch.call.vectors[k] = data_of(vectors[k]);
  }
  for (size_t k = 0; k < coefs.size(); ++k) {
    launch.coefs[k] = {coefs[k].real(), coefs[k].imag()};
    launch.call.coefs[k] = &launch.coefs[k];
  }
  launch.partials.resize(static_cast<size_t>(partials_size(n, dtype)));
  launch.call.partials = launch.partials.data();
}

std::vector<std::complex<double>> run_pass(const std::string& table, const std::string& name,
                                           const std::vector<py::array>& vectors,
                                           const std::vector<std::complex<double>>& coefs,
                                           int repeat) {
  Launch launch;
  prepare(launch, table, name, vectors, coefs);
  {
    py::gil_scoped_release nogil;
    for (int i = 0; i < repeat; ++i) launch.table->run(launch.call);
  }
  std::vector<std::complex<double>> sums;
  for (int k = 0; k < info(launch.call.pass).sums; ++k)
    sums.emplace_back(launch.sums[k].re, launch.sums[k].im);
  return sums;
}

}  // namespace

void bind_kernels(py::module_& m) {
  m.def("passes", &describe_passes);
  m.def("tables", &table_names);
  m.def("current_table", [] { return std::string(current_table().name); });
  m.def(
      "use_table",
      [](const std::string& name) {
        const std::string previous = current_table().name;
        use_table(table_named(name));
        return previous;
      },
      py::arg("name"));
  m.def("run_pass", &run_pass, py::arg("table"), py::arg("name"), py::arg("vectors"),
        py::arg("coefs") = std::vector<std::complex<double>>{}, py::arg("repeat") = 1);
  m.def("threads", &thread_count);
  m.def("thread_backend", &thread_backend);
}

}  // namespace krylov
