// Richardson's iteration, the Neumann series of (I - eta M A) (Krishnan 2018, section 3).
//
//   z = M r;  v = A z;  x += eta z;  r -= eta v
//
// Vectors moved in an iteration, without the product: 5 = {x += eta r; r -= eta v; r.r, r.v}; 6 with M.
// It converges for eta < 2 / lambda_max of a positive definite M A; growth of the residual is reported as divergence.
#include <cmath>

#include "solvers/registry.hpp"

namespace krylov {
namespace {

// |r| this many times the smallest one met is divergence, not the hump of a non-normal matrix.
constexpr double kGrowth = 1e3;

struct NeumannScalars : SystemScalars {
  Complex eta, eta_x;
  double best_rr = 0.0, previous_rr = 0.0;
  double rz = 0.0, curvature = 0.0;  // r.z of the old residual; z.Az
};

void stepped(NeumannScalars& s, double rr, double zAz, double rz) {
  s.previous_rr = s.rr;
  // phi(x + eta z) - phi(x) = -eta r.z + eta^2 z.Az / 2
  s.phi += s.eta.re * (0.5 * s.eta.re * zAz - rz);
  s.curvature = zAz;
  s.rr = rr;
  if (!is_finite(zAz) || !is_finite(rr)) s.status = Status::non_finite;
  if (rr > kGrowth * kGrowth * s.best_rr) s.status = Status::divergence;
  s.best_rr = std::fmin(s.best_rr, rr);
}

void relaxed(NeumannScalars& s, const Complex* sums) { stepped(s, sums[0].re, sums[1].re, s.rr); }
void relaxed_m(NeumannScalars& s, const Complex* sums) {
  stepped(s, sums[0].re, sums[1].re, sums[2].re);
}

class Neumann final : public LinearSystem {
 public:
  static constexpr int z = kSystemSlots, kSlots = z + 1;

  Neumann(int64_t n, Dtype dtype, const SystemOptions& options)
      : LinearSystem(n, dtype, kSlots, options) {
    s_.eta.re = options.step;
  }

  bool persistent(int slot) const override { return slot == z; }
  const char* slot_name(int slot) const override {
    static const char* const names[] = {"b", "x", "r", "v", "best", "z"};
    return names[slot];
  }

 protected:
  SystemScalars& common() override { return s_; }
  void* scalars() override { return &s_; }

  Request iterate() override {
    const bool m = options().preconditioned;
    switch (stage_) {
      case Stage::start:
        s_.eta_x.re = s_.eta.re * s_.sigma;
        s_.best_rr = s_.rr;
        stage_ = Stage::precondition;
        return Request::none;

      case Stage::precondition:
        stage_ = Stage::product;
        return m ? ask(Request::precondition, r, z) : Request::none;

      case Stage::product:
        stage_ = Stage::step;
        return ask(Request::multiply, m ? z : r, v);

      case Stage::step:
        if (m)
          launch(PassId::RelaxM, {x, r, v, z}, {&s_.eta_x, &s_.eta}, finish_of<relaxed_m>);
        else
          launch(PassId::Relax, {x, r, v}, {&s_.eta_x, &s_.eta}, finish_of<relaxed>);
        stage_ = Stage::close;
        return Request::none;

      case Stage::close:
        record_iteration();
        keep_previous();
        if (s_.curvature < 0.0) {
          ++negative_curvatures_;
          direction_curvature_ = std::fmin(direction_curvature_, s_.curvature / s_.previous_rr);
        }
        stage_ = Stage::next;
        return close_iteration();

      case Stage::next:
        if (s_.status != Status::running) return conclude(s_.status);
        if (seems_converged()) return verify();
        if (iterations_ >= options().maxiter) return conclude(Status::iteration_limit);
        stage_ = Stage::precondition;
        return Request::none;
    }
    return end(Status::breakdown);
  }

  void restart() override { stage_ = Stage::start; }

 private:
  enum class Stage { start, precondition, product, step, close, next };

  // The pass that shows a growing residual has already left the better iterate: step back into `best`.
  void keep_previous() {
    if (!leaves_best(s_.previous_rr, s_.rr)) return;
    back_ = -s_.eta_x;
    launch(PassId::Copy, {best, x});
    if (options().preconditioned) {
      launch(PassId::Axpy, {best, z}, {&back_});
    } else {  // r_old = r + eta v
      launch(PassId::Axpy, {best, r}, {&back_});
      back_ = s_.eta.re * back_;
      launch(PassId::Axpy, {best, v}, {&back_});
    }
  }

  NeumannScalars s_;
  Complex back_;
  Stage stage_ = Stage::start;
};

}  // namespace

std::unique_ptr<Recurrence> make_neumann(int64_t n, Dtype dtype, const SystemOptions& options) {
  return std::make_unique<Neumann>(n, dtype, options);
}

}  // namespace krylov
