// A recurrence as Python drives it. Operators that C++ knows are answered here, without the GIL; for the others
// advance() returns to Python with the demand and takes the answer with the next call.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "python/matrix.hpp"
#include "python/panel.hpp"
#include "solvers/system.hpp"

namespace krylov {

class Run {
 public:
  explicit Run(std::unique_ptr<Recurrence> recurrence);

  // The demand as one integer: request | (source + 1) << 4 | (target + 1) << 16.
  int advance(py::handle answer);

  void set_vector(int slot, py::array vector);
  void set_matrix(std::shared_ptr<CsrMatrix> matrix);
  // What answers precondition requests without Python.
  void set_diagonal(py::array diagonal);
  void set_low_rank(std::shared_ptr<LowRankMemory> low_rank);
  // A preconditioner that the recurrence itself applies lives as long as the run.
  void keep(std::shared_ptr<LowRankMemory> fused) { fused_ = std::move(fused); }
  // convert(answer, is_product) is called with an answer that is not a plain vector of the right dtype; it returns one
  // or raises.
  void set_convert(py::function convert) { convert_ = std::move(convert); }

  // References to an array that nobody but the calling expression holds.
  static void calibrate(py::handle fresh);

  const py::list& vectors() const { return vectors_; }
  Recurrence& recurrence() { return *recurrence_; }
  LinearSystem& system();
  // x.A x = x.(b - r) of the current iterate.
  double curvature();
  int64_t products() const { return products_; }

 private:
  bool answer_natively();
  void accept(py::handle answer, int slot);
  bool overlaps_another(py::handle answer, int slot) const;
  void place(int slot, py::handle vector);

  std::unique_ptr<Recurrence> recurrence_;
  py::list
      vectors_;  // the array in each slot now: workspace memory, or an answer that was borrowed
  std::vector<py::object> homes_;  // workspace memory of each slot
  std::shared_ptr<CsrMatrix> matrix_;
  py::array diagonal_;
  void* diagonal_data_ = nullptr;
  std::shared_ptr<LowRankMemory> low_rank_, fused_;
  std::vector<Complex> partials_;
  py::function convert_;
  int64_t products_ = 0;
};

void bind_run(py::module_& m);

}  // namespace krylov
