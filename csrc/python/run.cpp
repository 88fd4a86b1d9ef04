#include "python/run.hpp"

#include <chrono>

namespace krylov {
namespace {

// How long a native run may go on before Ctrl-C is looked for.
constexpr std::chrono::milliseconds kSlice{20};

Py_ssize_t unique_references = 0;

// Whether the memory of a fresh answer can have no other owner than the answer itself.
bool owns_alone(py::handle array) {
  if (Py_REFCNT(array.ptr()) > unique_references) return false;
  for (const auto* a = py::detail::array_proxy(array.ptr()); a->base;
       a = py::detail::array_proxy(a->base))
    if (!py::isinstance<py::array>(a->base) || Py_REFCNT(a->base) > 1) return false;
  return true;
}

}  // namespace

Run::Run(std::unique_ptr<Recurrence> recurrence)
    : recurrence_(std::move(recurrence)), homes_(static_cast<size_t>(recurrence_->vector_count())) {
  for (int slot = 0; slot < recurrence_->vector_count(); ++slot) vectors_.append(py::none());
}

void Run::place(int slot, py::handle vector) {
  vectors_[static_cast<size_t>(slot)] = vector;
  recurrence_->set_vector(slot, data_of(vector));
}

LinearSystem& Run::system() {
  auto* system = dynamic_cast<LinearSystem*>(recurrence_.get());
  if (!system) throw py::type_error("this run solves no linear system");
  return *system;
}

void Run::calibrate(py::handle fresh) { unique_references = Py_REFCNT(fresh.ptr()); }

void Run::set_vector(int slot, py::array vector) {
  if (slot < 0 || slot >= recurrence_->vector_count()) throw py::index_error("no such vector");
  if (!is_plain_vector(vector, recurrence_->size(), recurrence_->dtype()))
    throw py::value_error(std::string("vector ") + recurrence_->slot_name(slot) +
                          " must be contiguous, of the run's size and dtype");
  place(slot, vector);
  homes_[static_cast<size_t>(slot)] = std::move(vector);
}

void Run::set_matrix(std::shared_ptr<CsrMatrix> matrix) {
  const Csr& a = matrix->view();
  if (a.rows != recurrence_->size() || a.columns != a.rows || a.dtype != recurrence_->dtype())
    throw py::value_error("the matrix does not fit the run");
  partials_.resize(static_cast<size_t>(csr_partials_size(a.rows)));
  matrix_ = std::move(matrix);
}

void Run::set_diagonal(py::array diagonal) {
  if (!is_plain_vector(diagonal, recurrence_->size(), recurrence_->dtype()))
    throw py::value_error("the diagonal must be contiguous, of the run's size and dtype");
  diagonal_ = std::move(diagonal);
  diagonal_data_ = data_of(diagonal_);
}

void Run::set_low_rank(std::shared_ptr<LowRankMemory> low_rank) {
  if (low_rank->view().size() != recurrence_->size() ||
      low_rank->view().dtype() != recurrence_->dtype())
    throw py::value_error("the preconditioner does not fit the run");
  low_rank_ = std::move(low_rank);
}

double Run::curvature() {
  LinearSystem& run = system();
  using Slots = LinearSystem;
  if (!run.vector(Slots::b) || run.size() == 0 || run.b_norm() == 0.0) return 0.0;
  Complex sums[kMaxSums];
  std::vector<Complex> partials(static_cast<size_t>(partials_size(run.size(), run.dtype())));
  PassCall call{PassId::DotPair,
                run.dtype(),
                run.size(),
                {run.vector(Slots::b), run.vector(Slots::r), run.vector(Slots::x)},
                {},
                sums,
                partials.data()};
  {
    py::gil_scoped_release nogil;
    run.table().run(call);
  }
  return sums[0].re - run.sigma() * sums[1].re;
}

bool Run::answer_natively() {
  const Demand demand = recurrence_->demand();
  if (demand.request == Request::multiply && matrix_) {
    Recurrence& run = *recurrence_;
    const void* weight = demand.weight >= 0 ? run.vector(demand.weight) : nullptr;
    Complex dot;
    csr_multiply(matrix_->view(), run.vector(demand.source), run.vector(demand.target), weight,
                 &dot, partials_.data());
    ++products_;
    if (weight) run.supply_dot(dot);
    return true;
  }
  if (demand.request == Request::precondition && diagonal_data_) {
    Recurrence& run = *recurrence_;
    PassCall call{PassId::Multiply,
                  run.dtype(),
                  run.size(),
                  {run.vector(demand.target), diagonal_data_, run.vector(demand.source)},
                  {},
                  nullptr,
                  nullptr};
    run.table().run(call);
    return true;
  }
  if (demand.request == Request::precondition && low_rank_) {
    Recurrence& run = *recurrence_;
    low_rank_->view().apply(run.table(), run.vector(demand.source), run.vector(demand.target));
    return true;
  }
  return false;
}

// Whether an answer lies in the memory of another vector of the run (an operator may return its own input).
bool Run::overlaps_another(py::handle answer, int slot) const {
  const int64_t bytes = recurrence_->size() * item_size(recurrence_->dtype());
  const auto* start = static_cast<const char*>(data_of(answer));
  for (int k = 0; k < recurrence_->vector_count(); ++k) {
    const auto* other = static_cast<const char*>(recurrence_->vector(k));
    if (k != slot && other && start < other + bytes && other < start + bytes) return true;
  }
  return false;
}

void Run::accept(py::handle answer, int slot) {
  const py::object& home = homes_[static_cast<size_t>(slot)];
  py::object converted;
  if (!is_plain_vector(answer, recurrence_->size(), recurrence_->dtype()) ||
      dimensions_of(answer) != 1) {
    converted = convert_(answer, recurrence_->demand().request == Request::multiply);
    if (!is_plain_vector(converted, recurrence_->size(), recurrence_->dtype()))
      throw py::type_error("the operator's answer could not be used as a vector");
    answer = converted;
  }
  const bool in_place = data_of(answer) == data_of(home);
  const bool safe = !recurrence_->persistent(slot) || (!converted && owns_alone(answer));
  if (!in_place && safe && !overlaps_another(answer, slot)) {
    place(slot, answer);
    return;
  }
  // Somebody else holds this memory and may overwrite it when the next product is formed.
  if (!in_place) {
    PassCall call{PassId::Copy,
                  recurrence_->dtype(),
                  recurrence_->size(),
                  {data_of(home), data_of(answer)},
                  {},
                  nullptr,
                  nullptr};
    py::gil_scoped_release nogil;
    recurrence_->table().run(call);
  }
  place(slot, home);
}

int Run::advance(py::handle answer) {
  const Demand asked = recurrence_->demand();
  if (asked.request == Request::multiply || asked.request == Request::precondition) {
    accept(answer, asked.target);
    products_ += asked.request == Request::multiply;
  }
  for (;;) {
    bool answered = false;
    {
      py::gil_scoped_release nogil;
      const auto deadline = std::chrono::steady_clock::now() + kSlice;
      do {
        recurrence_->resume();
        answered = answer_natively();
      } while (answered && std::chrono::steady_clock::now() < deadline);
    }
    if (!answered) break;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  }
  const Demand demand = recurrence_->demand();
  return static_cast<int>(demand.request) | (demand.source + 1) << 4 | (demand.target + 1) << 16;
}

}  // namespace krylov
