// A recurrence is an object that asks. It launches passes itself; what it cannot do (multiply by A, apply M, judge an
// iterate, add sums over ranks) it requests from its driver and waits. It never calls anyone, so any operator fits.
#pragma once

#include <initializer_list>
#include <memory>
#include <vector>

#include "kernels/table.hpp"

namespace krylov {

enum class Request : int { none, done, multiply, precondition, judge, reduce, learn };

// What is wanted: vector `target` := operator applied to vector `source`, or, to learn from, the pair of a direction
// `source` and its product `target`. Where `weight` is not negative, the next pass
// is the dot weight.target; a driver that has it already (a sparse product with the sum in its epilogue) supplies it.
struct Demand {
  Request request = Request::none;
  int source = -1, target = -1, weight = -1;
};

enum class Status : int {
  running,
  converged,
  iteration_limit,
  negative_curvature,
  trust_radius,
  indefinite_preconditioner,
  breakdown_rho,
  breakdown_omega,
  breakdown,
  stagnation,
  divergence,
  non_finite,
  stopped,  // by the driver, on behalf of a rule or a callback
};

// History of a run, a value per iteration; [0] is the start.
struct Trace {
  std::vector<double> residual_norms, quadratic_values, alphas, betas, curvatures, signs;
  void reserve(int64_t iterations);
};

class Recurrence {
 public:
  Recurrence(int64_t n, Dtype dtype, int vectors);
  virtual ~Recurrence() = default;
  Recurrence(const Recurrence&) = delete;
  Recurrence& operator=(const Recurrence&) = delete;

  // Goes on until something is needed; demand() says what.
  Request resume();
  const Demand& demand() const { return demand_; }

  // The dot that a multiply demand asked for, when the driver has it.
  void supply_dot(Complex value);
  // Where the vectors are one part of longer ones, a driver adds up the sums of every pass over all parts: it answers
  // Request::reduce by replacing them here.
  void set_partial_sums(bool partial) { partial_sums_ = partial; }
  Complex* sums() { return sums_.data(); }
  int sum_count() const { return sum_count_; }

  // The driver ends the run after a judge request.
  void stop() {
    if (status_ == Status::running) status_ = Status::stopped;
  }

  void set_vector(int slot, void* data) { vectors_[slot] = data; }
  void* vector(int slot) const { return vectors_[slot]; }
  int vector_count() const { return static_cast<int>(vectors_.size()); }
  // Whether the answer in this slot is read again after a further operator has been applied.
  virtual bool persistent(int slot) const = 0;
  virtual const char* slot_name(int slot) const = 0;

  int64_t size() const { return n_; }
  Dtype dtype() const { return dtype_; }
  Status status() const { return status_; }
  int64_t iterations() const { return iterations_; }
  const Trace& trace() const { return trace_; }
  const Table& table() const { return table_; }
  // How often each pass has been launched, and how many columns of panels were read: the traffic of a run, as it was.
  int64_t launches(PassId pass) const { return launches_[static_cast<int>(pass)]; }
  int64_t panel_columns() const { return panel_columns_; }

 protected:
  // Turns the complete sums of a pass into the next scalars of the recurrence: plain arithmetic on one plain struct.
  using Finish = void (*)(void* scalars, const Complex* sums);

  // One stage of the recurrence: at most one pass with a finish, or a request. Named by the subclass's stage variable.
  virtual Request advance() = 0;
  virtual void* scalars() = 0;

  void launch(PassId pass, std::initializer_list<int> slots,
              std::initializer_list<const Complex*> coefs = {}, Finish finish = nullptr);
  // The pass, and behind its sums c = B^H v for its vector v of that number.
  void launch_project(const Panel& panel, int vector, PassId pass, std::initializer_list<int> slots,
                      std::initializer_list<const Complex*> coefs, Finish finish);
  // The pass, whose vector of that number is z = gamma r + B d and no slot (-1 stands in its place); weights are gamma
  // and d, and a negative slot r leaves B d.
  void launch_combine(const Panel& panel, int vector, int r, const Complex* weights, PassId pass,
                      std::initializer_list<int> slots, std::initializer_list<const Complex*> coefs,
                      Finish finish = nullptr);
  // The vectors in slots [0, count) as a panel.
  Panel leading_slots(int count) const {
    return {is_single(dtype_) ? Storage::float32 : Storage::float64, count, vectors_.data()};
  }
  // Room for the sums of panels of so many columns.
  void reserve_columns(int columns);
  // As launch, but the only sum has been supplied with the product.
  bool take_supplied_dot(Finish finish);

  Request ask(Request request, int source = -1, int target = -1, int weight = -1);
  Request end(Status status);

  Status status_ = Status::running;
  int64_t iterations_ = 0;
  Trace trace_;

 private:
  PassCall prepare(PassId pass, std::initializer_list<int> slots,
                   std::initializer_list<const Complex*> coefs);
  void run_panel(const PanelCall& call, Finish finish);

  const Table& table_;
  const int64_t n_;
  const Dtype dtype_;
  std::vector<void*> vectors_;
  std::vector<Complex> partials_, panel_partials_;
  std::vector<Complex> sums_;
  int sum_count_ = 0;
  int64_t launches_[kPassCount] = {};
  int64_t panel_columns_ = 0;
  Finish pending_ = nullptr;
  Demand demand_;
  bool dot_supplied_ = false;
  bool partial_sums_ = false;
};

// A finish on a typed struct of scalars as the untyped one that launch() takes.
template <auto finish>
struct FinishOf;
template <class S, void (*finish)(S&, const Complex*)>
struct FinishOf<finish> {
  static void call(void* scalars, const Complex* sums) { finish(*static_cast<S*>(scalars), sums); }
};
template <auto finish>
constexpr auto finish_of = FinishOf<finish>::call;

}  // namespace krylov
