// Conjugate gradients for Hermitian A, with a fixed preconditioner (Fletcher-Reeves) or a changing one (flexible,
// Polak-Ribiere), Steihaug's trust radius and a relative curvature test.
//
//   v = A p;  alpha = r.z / p.v;  x += alpha p;  r -= alpha v;  z = M r
//   beta = r.z / (previous r.z)                 fixed M
//   beta = z.(r - r_old) / (previous r.z)       flexible; r - r_old = -alpha v, so no old r is kept
//   p = z + beta p
//
// Vectors moved in an iteration, without the products (an element read or written counts one):
//   CG 10 = {p.v} 2 + {r -= alpha v; r.r} 3 + {x += alpha p; p = r + beta p} 5       8 with p.v from the product
//   CG with M 12 = 10 + {r.z} 2;  with a diagonal 12 = 2 + {r, r.Dr} 4 + {x, p} 6, and z is never formed
//   flexible 13 = 10 + {r.z, v.z} 3
//   with a low-rank M of k columns, fixed or flexible, 2 k + 10 = 2 + {r, r.r, r_old.r, B^H r} k + 3 + {x, p} k + 5
//
// Deviations from the textbook: (1) the curvature test p.v <= eps p.p max_i(p_i.v_i / p_i.p_i) is relative to the
// largest Rayleigh quotient met; (2) at apparent convergence the residual is recomputed, and the recurrence goes on from
// it when it had drifted; (3) sums of a complex run that are real for Hermitian A and M take their real parts; the
// flexible v.z is not real when M changes.
#include "solvers/cg_scalars.hpp"
#include "solvers/registry.hpp"

namespace krylov {
namespace {

// r.r of the true residual over that of the recurrence up to which the direction is kept.
constexpr double kSmallDrift = 4.0;

class Cg final : public LinearSystem {
 public:
  static constexpr int p = kSystemSlots, z = p + 1, diag = p + 2, kSlots = p + 3;

  Cg(int64_t n, Dtype dtype, const SystemOptions& options, bool flexible)
      : LinearSystem(n, dtype, kSlots, options) {
    s_.flexible = flexible;
    s_.on_curvature = options.on_curvature;
    s_.radius = options.radius;
    s_.epsilon = 8.0 * epsilon(dtype);
    s_.low_rank = options.low_rank;
    if (s_.low_rank) {
      const auto columns = static_cast<size_t>(s_.low_rank->capacity());
      reserve_columns(s_.low_rank->capacity());
      s_.c.reserve(columns);
      s_.c_old.reserve(columns);
      s_.weights.resize(columns + 1);
    }
  }

  // v is read again after M only by the flexible beta.
  bool persistent(int slot) const override {
    return slot == v && s_.flexible && options().preconditioned;
  }
  const char* slot_name(int slot) const override {
    static const char* const names[] = {"b", "x", "r", "v", "best", "p", "z", "diag"};
    return names[slot];
  }
  int direction_slot() const override { return p; }

 protected:
  SystemScalars& common() override { return s_; }
  void* scalars() override { return &s_; }

  Request iterate() override {
    switch (stage_) {
      case Stage::start:
        if (options().diagonal) launch(PassId::Multiply, {z, diag, r});
        stage_ = Stage::first_rho;
        return options().preconditioned ? ask(Request::precondition, r, z) : Request::none;

      case Stage::first_rho:
        if (low_rank())
          project_residual_with(finish_of<project_residual>);
        else if (has_m())
          launch(PassId::Dot, {r, z}, {}, finish_of<first_rho>);
        else
          s_.rho = s_.rr;
        stage_ = Stage::first_direction;
        return Request::none;

      case Stage::first_direction:
        note_indefinite_m();
        if (s_.status != Status::running) return conclude(s_.status);
        if (low_rank())
          launch_combine(m().panel(), 1, r, s_.weights.data(), PassId::Direction, {p, -1, x}, {},
                         finish_of<measure_direction>);
        else
          launch(PassId::Direction, {p, has_m() ? z : r, x}, {}, finish_of<measure_direction>);
        stage_ = Stage::product;
        return Request::none;

      case Stage::product:
        stage_ = Stage::curvature;
        return ask(Request::multiply, p, v, p);

      case Stage::curvature:
        if (!take_supplied_dot(finish_of<step_length>))
          launch(PassId::Dot, {p, v}, {}, finish_of<step_length>);
        stage_ = Stage::learn;
        return Request::none;

      case Stage::learn:
        if (s_.negative) note_negative_curvature();
        if (s_.status != Status::running && !s_.last_step) return conclude(s_.status);
        stage_ = Stage::learnt;
        return options().learns && !s_.negative ? ask(Request::learn, p, v) : Request::none;

      case Stage::learnt:
        stage_ = Stage::residual;
        if (low_rank() && m().version() != s_.version)
          project_residual_with(finish_of<project_again>);
        return Request::none;

      case Stage::residual:
        rr_before_ = s_.rr;
        if (low_rank())
          launch_project(m().panel(), 0, PassId::CgResidualOld, {r, v}, {&s_.alpha},
                         finish_of<low_rank_residual>);
        else if (options().diagonal)
          launch(PassId::CgResidualDiag, {r, v, diag}, {&s_.alpha}, finish_of<diagonal_residual>);
        else
          launch(PassId::CgResidual, {r, v}, {&s_.alpha}, finish_of<new_residual>);
        stage_ = Stage::look;
        return Request::none;

      case Stage::look:
        return look();

      case Stage::beta:
        // That of a diagonal or low-rank M came with the residual.
        stage_ = Stage::direction;
        if (!has_m())
          take_fixed_beta(s_, s_.rr);
        else if (low_rank()) {
          if (replaced_) project_residual_with(finish_of<project_for_beta>);
        } else if (replaced_ || (!options().diagonal && !s_.flexible))
          launch(PassId::Dot, {r, z}, {}, finish_of<fixed_beta>);
        else if (!options().diagonal)
          launch(PassId::DotPair, {r, v, z}, {}, finish_of<flexible_beta>);
        return Request::none;

      case Stage::direction:
        return direction();

      case Stage::close_last:
        record();
        stage_ = s_.last_step ? Stage::ended : Stage::verify;
        return close_iteration();

      case Stage::verify:
        believed_rr_ = s_.rr;
        believed_sigma_ = s_.sigma;
        return verify();

      case Stage::ended:
        return conclude(s_.status);
    }
    return end(Status::breakdown);
  }

  void restart() override {
    if (s_.sigma != believed_sigma_ || s_.rr > kSmallDrift * believed_rr_) {
      // Too far from the truth for p to be of use.
      stage_ = Stage::start;
      return;
    }
    // x stands and p is kept: only the residual changes (van der Vorst and Ye 2000).
    replaced_ = true;
    if (options().diagonal) launch(PassId::Multiply, {z, diag, r});
    s_.alpha_x = {};
    stage_ = options().preconditioned ? Stage::look : Stage::beta;
  }

 private:
  enum class Stage {
    start,
    first_rho,
    first_direction,
    product,
    curvature,
    learn,
    learnt,
    residual,
    look,
    beta,
    direction,
    close_last,
    verify,
    ended
  };

  bool low_rank() const { return s_.low_rank != nullptr; }
  const LowRank& m() const { return *s_.low_rank; }
  bool has_m() const { return options().preconditioned || options().diagonal || low_rank(); }

  void project_residual_with(Finish finish) {
    launch_project(m().panel(), 0, PassId::Dot, {r, r}, {}, finish);
  }

  // After r is known: the last half of the last iteration, or M.
  Request look() {
    if (!is_finite(s_.rr)) {
      s_.rr = rr_before_;
      return conclude(Status::non_finite);
    }
    if (!replaced_ && (seems_converged() || s_.last_step)) {
      launch(PassId::Axpy, {x, p}, {&s_.alpha_x});
      stage_ = Stage::close_last;
      return Request::none;
    }
    stage_ = Stage::beta;
    return options().preconditioned ? ask(Request::precondition, r, z) : Request::none;
  }

  Request direction() {
    note_indefinite_m();
    if (s_.status != Status::running) {
      launch(PassId::Axpy, {x, p}, {&s_.alpha_x});
      s_.last_step = true;
      stage_ = Stage::close_last;
      return Request::none;
    }
    // With positive curvature the last iterate has the smallest quadratic value; after negative curvature only the
    // residual can tell which iterate is best.
    if (negative_curvatures_ > 0 && !replaced_) keep_best(rr_before_, s_.rr);
    const bool formed = options().preconditioned || (options().diagonal && replaced_);
    if (low_rank())
      launch_combine(m().panel(), 2, r, s_.weights.data(), PassId::CgStep, {x, p, -1},
                     {&s_.alpha_x, &s_.beta}, finish_of<measure_direction>);
    else if (options().diagonal && !formed)
      launch(PassId::CgStepDiag, {x, p, r, diag}, {&s_.alpha_x, &s_.beta},
             finish_of<measure_direction>);
    else
      launch(PassId::CgStep, {x, p, formed ? z : r}, {&s_.alpha_x, &s_.beta},
             finish_of<measure_direction>);
    stage_ = Stage::product;
    if (replaced_) {
      replaced_ = false;
      return Request::none;
    }
    record();
    if (iterations_ >= options().maxiter) {
      s_.status = Status::iteration_limit;
      stage_ = Stage::ended;
    }
    return close_iteration();
  }

  void note_negative_curvature() {
    ++negative_curvatures_;
    if (direction_curvature_ >= 0.0 || s_.quotient < direction_curvature_)
      direction_curvature_ = s_.quotient;
  }

  void note_indefinite_m() {
    indefinite_preconditioner_ = indefinite_preconditioner_ || s_.indefinite_m;
  }

  void record() {
    record_iteration();
    trace_.alphas.push_back(s_.alpha.re);
    trace_.betas.push_back(s_.beta.re);
  }

  CgScalars s_;
  Stage stage_ = Stage::start;
  bool replaced_ = false;
  double rr_before_ = 0.0;
  double believed_rr_ = 0.0, believed_sigma_ = 1.0;
};

}  // namespace

std::unique_ptr<Recurrence> make_cg(int64_t n, Dtype dtype, const SystemOptions& options) {
  return std::make_unique<Cg>(n, dtype, options, false);
}

std::unique_ptr<Recurrence> make_flexible_cg(int64_t n, Dtype dtype, const SystemOptions& options) {
  return std::make_unique<Cg>(n, dtype, options, true);
}

}  // namespace krylov
