#include <pybind11/complex.h>
#include <pybind11/stl.h>

#include <complex>

#include "lowrank/two_loop.hpp"
#include "python/bind_kernels.hpp"
#include "python/panel.hpp"

namespace krylov {
namespace {

using Matrix = py::array_t<std::complex<double>, py::array::c_style | py::array::forcecast>;

const char* const kStorageNames[kStorages] = {"float64", "float32", "bfloat16"};

Storage storage_named(const std::string& name) {
  for (int k = 0; k < kStorages; ++k)
    if (name == kStorageNames[k]) return static_cast<Storage>(k);
  throw py::value_error("unknown storage " + name);
}

std::vector<Complex> coefficients(const Matrix& values) {
  std::vector<Complex> out(static_cast<size_t>(values.size()));
  for (size_t i = 0; i < out.size(); ++i)
    out[i] = {values.data()[i].real(), values.data()[i].imag()};
  return out;
}

void check_vector(py::handle vector, const PanelMemory& memory, bool written) {
  if (!is_plain_vector(vector, memory.size(), memory.dtype()) || (written && !is_writable(vector)))
    throw py::value_error("vectors must be contiguous, of the panel's size and dtype");
}

// The parts that every call has.
PanelCall call_on(const PanelMemory& memory, PanelOp op) {
  PanelCall call{};
  call.op = op;
  call.pass.dtype = memory.dtype();
  call.pass.n = memory.size();
  call.panel.storage = call.other.storage = memory.storage();
  return call;
}

void run_without_gil(const Table& table, PanelCall& call) {
  std::vector<Complex> partials(
      static_cast<size_t>(panel_partials_size(call.pass.n, call.pass.dtype, panel_sums(call))));
  call.partials = partials.data();
  py::gil_scoped_release nogil;
  table.run_panel(call);
}

void put(const PanelMemory& memory, int column, const py::array& x, double scale) {
  check_vector(x, memory, false);
  const auto columns = memory.select({column});
  const Complex factor{scale, 0.0};
  PanelCall call = call_on(memory, PanelOp::put);
  call.panel = {memory.storage(), 1, columns.data()};
  call.source = data_of(x);
  call.coefs = &factor;
  run_without_gil(current_table(), call);
}

py::array_t<std::complex<double>> gram(const PanelMemory& memory, const std::vector<int>& left,
                                       const std::vector<int>& right) {
  const auto rows = memory.select(left), columns = memory.select(right);
  py::array_t<std::complex<double>> out(
      {static_cast<py::ssize_t>(left.size()), static_cast<py::ssize_t>(right.size())});
  std::vector<Complex> sums(left.size() * right.size());
  PanelCall call = call_on(memory, PanelOp::gram);
  call.panel = {memory.storage(), static_cast<int>(rows.size()), rows.data()};
  call.other = {memory.storage(), static_cast<int>(columns.size()), columns.data()};
  call.sums = sums.data();
  run_without_gil(current_table(), call);
  for (size_t i = 0; i < sums.size(); ++i) out.mutable_data()[i] = {sums[i].re, sums[i].im};
  return out;
}

void rotate(const PanelMemory& memory, const std::vector<int>& sources,
            const std::vector<int>& targets, const Matrix& u) {
  if (u.ndim() != 2 || u.shape(0) != static_cast<py::ssize_t>(sources.size()) ||
      u.shape(1) != static_cast<py::ssize_t>(targets.size()))
    throw py::value_error("the matrix must have a row per source and a column per target");
  const auto from = memory.select(sources), to = memory.select(targets);
  const auto weights = coefficients(u);
  PanelCall call = call_on(memory, PanelOp::rotate);
  call.panel = {memory.storage(), static_cast<int>(from.size()), from.data()};
  call.other = {memory.storage(), static_cast<int>(to.size()), to.data()};
  call.coefs = weights.data();
  run_without_gil(current_table(), call);
}

void apply_two_loop(const PanelMemory& memory, const std::vector<int>& s, const std::vector<int>& y,
                    const std::vector<double>& moved, const std::vector<double>& sy, double gamma,
                    const py::array& r, py::array& z) {
  if (s.size() != y.size() || s.size() != moved.size() || s.size() != sy.size())
    throw py::value_error("s, y, moved and sy must have one length");
  check_vector(r, memory, false);
  check_vector(z, memory, true);
  const auto directions = memory.select(s), products = memory.select(y);
  const PairsView pairs{memory.storage(),  static_cast<int>(s.size()),
                        directions.data(), products.data(),
                        moved.data(),      sy.data()};
  const void* source = data_of(r);
  void* target = data_of(z);
  py::gil_scoped_release nogil;
  two_loop(current_table(), memory.dtype(), memory.size(), pairs, gamma, source, target);
}

// project and combine with any pass beside, for the tests and the benchmarks.
py::tuple run_panel(const PanelMemory& memory, const std::string& table, const std::string& op,
                    const std::string& name, const std::vector<py::object>& vectors,
                    const std::vector<std::complex<double>>& coefs, const std::vector<int>& columns,
                    int vector, const py::object& source, const Matrix& weights) {
  const PassId id = pass_named(name);
  const PassInfo& pass = info(id);
  const bool combines = op == "combine";
  if (!combines && op != "project") throw py::value_error("no such operation: " + op);
  if (static_cast<int>(vectors.size()) != pass.vectors ||
      static_cast<int>(coefs.size()) != pass.coefs || vector < 0 || vector >= pass.vectors ||
      (combines && weights.size() != static_cast<py::ssize_t>(columns.size()) + 1))
    throw py::value_error("wrong number of vectors, coefficients or weights");
  const auto chosen = memory.select(columns);
  const auto factors = coefficients(weights);
  Complex pass_coefs[kMaxCoefs], pass_sums[kMaxSums];
  std::vector<Complex> partials(static_cast<size_t>(partials_size(memory.size(), memory.dtype())));
  std::vector<Complex> c(columns.size());
  PanelCall call = call_on(memory, combines ? PanelOp::combine : PanelOp::project);
  call.pass.pass = id;
  for (size_t k = 0; k < vectors.size(); ++k) {
    if (combines && static_cast<int>(k) == vector) continue;
    check_vector(vectors[k], memory, pass.stored >> k & 1u);
    call.pass.vectors[k] = data_of(vectors[k]);
  }
  for (size_t k = 0; k < coefs.size(); ++k) {
    pass_coefs[k] = {coefs[k].real(), coefs[k].imag()};
    call.pass.coefs[k] = &pass_coefs[k];
  }
  call.pass.sums = pass_sums;
  call.pass.partials = partials.data();
  call.panel = {memory.storage(), static_cast<int>(chosen.size()), chosen.data()};
  call.vector = vector;
  if (combines && !source.is_none()) {
    check_vector(source, memory, false);
    call.source = data_of(source);
  }
  call.coefs = factors.data();
  call.sums = c.data();
  run_without_gil(table_named(table), call);
  std::vector<std::complex<double>> sums, projections;
  for (int k = 0; k < pass.sums; ++k) sums.emplace_back(pass_sums[k].re, pass_sums[k].im);
  for (const Complex& value : c) projections.emplace_back(value.re, value.im);
  return py::make_tuple(sums, projections);
}

}  // namespace

PanelMemory::PanelMemory(int64_t n, Dtype dtype, Storage storage, std::vector<py::array> columns)
    : n_(n), dtype_(dtype), storage_(storage), arrays_(std::move(columns)) {
  if (!storage_fits(storage, dtype)) throw py::value_error("float32 vectors have no float64 panel");
  if (static_cast<int64_t>(arrays_.size()) > kMaxColumns)
    throw py::value_error("a panel has at most " + std::to_string(kMaxColumns) + " columns");
  const int64_t bytes = real_length(n, dtype) * real_size(storage);
  for (py::array& column : arrays_) {
    if (column.nbytes() != bytes || !(column.flags() & py::array::c_style) || !column.writeable())
      throw py::value_error("columns must be contiguous and writable, of the panel's size");
    columns_.push_back(data_of(column));
  }
}

std::vector<void*> PanelMemory::select(const std::vector<int>& which) const {
  std::vector<void*> chosen;
  for (int k : which) {
    if (k < 0 || k >= count()) throw py::index_error("no such column");
    chosen.push_back(columns_[static_cast<size_t>(k)]);
  }
  if (static_cast<int>(chosen.size()) > kMaxColumns) throw py::value_error("too many columns");
  return chosen;
}

void bind_panel(py::module_& m) {
  m.attr("max_columns") = kMaxColumns;
  py::class_<PanelMemory, std::shared_ptr<PanelMemory>>(m, "Panel")
      .def(py::init([](int64_t n, int dtype, const std::string& storage,
                       std::vector<py::array> columns) {
             return std::make_shared<PanelMemory>(n, dtype_from(dtype), storage_named(storage),
                                                  std::move(columns));
           }),
           py::arg("n"), py::arg("dtype"), py::arg("storage"), py::arg("columns"))
      .def("put", &put, py::arg("column"), py::arg("x"), py::arg("scale") = 1.0)
      .def("gram", &gram, py::arg("left"), py::arg("right"))
      .def("rotate", &rotate, py::arg("sources"), py::arg("targets"), py::arg("matrix"))
      .def("two_loop", &apply_two_loop, py::arg("s"), py::arg("y"), py::arg("moved"), py::arg("sy"),
           py::arg("gamma"), py::arg("r"), py::arg("z"))
      .def("run", &run_panel, py::arg("table"), py::arg("op"), py::arg("name"), py::arg("vectors"),
           py::arg("coefs"), py::arg("columns"), py::arg("vector"), py::arg("source") = py::none(),
           py::arg("weights") = Matrix(0));

  py::class_<LowRankMemory, std::shared_ptr<LowRankMemory>>(m, "LowRank")
      .def(py::init<std::shared_ptr<PanelMemory>, int>(), py::arg("panel"), py::arg("capacity"))
      .def(
          "set",
          [](LowRankMemory& self, const std::vector<int>& columns, double gamma, const Matrix& k) {
            const auto count = static_cast<py::ssize_t>(columns.size());
            if (k.ndim() != 2 || k.shape(0) != count || k.shape(1) != count)
              throw py::value_error("K must be square, with a row per column of the panel");
            if (count > self.view().capacity()) throw py::value_error("more columns than capacity");
            self.view().set(self.memory().select(columns), gamma, coefficients(k));
          },
          py::arg("columns"), py::arg("gamma"), py::arg("k"))
      .def(
          "apply",
          [](const LowRankMemory& self, const py::array& r, py::array& z) {
            check_vector(r, self.memory(), false);
            check_vector(z, self.memory(), true);
            const void* source = data_of(r);
            void* target = data_of(z);
            py::gil_scoped_release nogil;
            self.view().apply(current_table(), source, target);
          },
          py::arg("r"), py::arg("z"))
      .def_property_readonly("count",
                             [](const LowRankMemory& self) { return self.view().count(); });
}

}  // namespace krylov
