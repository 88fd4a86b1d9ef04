// The kernel tables, for build_config(), the tests and the benchmarks.
#include "python/bind_kernels.hpp"

#include <pybind11/complex.h>
#include <pybind11/stl.h>

#include <algorithm>
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

// All but the vectors.
void choose(Launch& launch, const std::string& table, const std::string& name, size_t vectors,
            const std::vector<std::complex<double>>& coefs) {
  launch.table = &table_named(table);
  launch.call.pass = pass_named(name);
  launch.call.sums = launch.sums;
  const PassInfo& pass = info(launch.call.pass);
  if (static_cast<int>(vectors) != pass.vectors || static_cast<int>(coefs.size()) != pass.coefs)
    throw py::value_error(name + " takes " + std::to_string(pass.vectors) + " vectors and " +
                          std::to_string(pass.coefs) + " coefficients");
  for (size_t k = 0; k < coefs.size(); ++k) {
    launch.coefs[k] = {coefs[k].real(), coefs[k].imag()};
    launch.call.coefs[k] = &launch.coefs[k];
  }
}

void reserve(Launch& launch, int64_t n) {
  launch.partials.resize(static_cast<size_t>(partials_size(n, launch.call.dtype)));
  launch.call.partials = launch.partials.data();
}

void prepare(Launch& launch, const std::string& table, const std::string& name,
             const std::vector<py::array>& vectors,
             const std::vector<std::complex<double>>& coefs) {
  choose(launch, table, name, vectors.size(), coefs);
  PassCall& call = launch.call;
  call.dtype = dtype_of(vectors[0]);
  call.n = vectors[0].size();
  for (size_t k = 0; k < vectors.size(); ++k) {
    if (!is_plain_vector(vectors[k], call.n, call.dtype) ||
        ((info(call.pass).stored >> k & 1u) && !is_writable(vectors[k])))
      throw py::value_error(
          "vectors must be contiguous, of one size and dtype, and writable where stored");
    call.vectors[k] = data_of(vectors[k]);
  }
  reserve(launch, call.n);
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

// One pass on one group of vectors after the other, named by their addresses: where tensors are many and small, array
// objects would cost more than the arithmetic. The sums of all groups, one group after the other.
std::vector<double> run_pass_at(const std::string& table, const std::string& name, int dtype,
                                const std::vector<int64_t>& sizes,
                                const std::vector<std::vector<uintptr_t>>& addresses,
                                const std::vector<double>& coefs) {
  Launch launch;
  const size_t vectors = addresses.empty() ? 0 : addresses[0].size();
  choose(launch, table, name, vectors, {coefs.begin(), coefs.end()});
  PassCall& call = launch.call;
  call.dtype = dtype_from(dtype);
  if (sizes.size() != addresses.size())
    throw py::value_error("sizes and addresses differ in number");
  int64_t longest = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] < 0 || addresses[i].size() != vectors)
      throw py::value_error("a size is negative, or groups differ in their number of vectors");
    longest = std::max(longest, sizes[i]);
  }
  reserve(launch, longest);
  const int sums = info(call.pass).sums;
  std::vector<double> found;
  found.reserve(sizes.size() * static_cast<size_t>(sums));
  py::gil_scoped_release nogil;
  for (size_t i = 0; i < sizes.size(); ++i) {
    call.n = sizes[i];
    for (size_t k = 0; k < vectors; ++k)
      call.vectors[k] =
          reinterpret_cast<void*>(addresses[i][k]);  // NOLINT(performance-no-int-to-ptr)
    launch.table->run(call);
    for (int k = 0; k < sums; ++k) found.push_back(launch.sums[k].re);
  }
  return found;
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
  m.def("run_pass_at", &run_pass_at, py::arg("table"), py::arg("name"), py::arg("dtype"),
        py::arg("sizes"), py::arg("addresses"), py::arg("coefs"));
  m.def("threads", &thread_count);
  m.def("thread_backend", &thread_backend);
}

}  // namespace krylov
