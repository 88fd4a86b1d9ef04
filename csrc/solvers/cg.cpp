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
//
// Deviations from the textbook: (1) the curvature test p.v <= eps p.p max_i(p_i.v_i / p_i.p_i) is relative to the
// largest Rayleigh quotient met; (2) at apparent convergence the residual is recomputed, and the recurrence goes on from
// it when it had drifted; (3) sums of a complex run that are real for Hermitian A and M take their real parts; the
// flexible v.z is not real when M changes.
#include <cmath>

#include "solvers/registry.hpp"
#include "solvers/system.hpp"

namespace krylov {
namespace {

// r.r of the true residual over that of the recurrence up to which the direction is kept.
constexpr double kSmallDrift = 4.0;

struct CgScalars : SystemScalars {
  Complex alpha, alpha_x, beta;  // alpha_x = sigma alpha: x is in the caller's units
  double rho = 0.0;              // r.z
  double pAp = 0.0, pp = 0.0, xp = 0.0, xx = 0.0;  // xp, xx in the units of x
  double largest_quotient = 0.0, quotient = 0.0;   // of p.v / p.p
  double epsilon = 0.0, radius = 0.0;
  OnCurvature on_curvature = OnCurvature::ignore;
  bool flexible = false, last_step = false, negative = false, indefinite_m = false;
};

// r.z of a preconditioned residual: where it is not positive, M is not positive definite.
void take_rho(CgScalars& s, double rho) {
  if (!is_finite(rho)) s.status = Status::non_finite;
  if (rho <= 0.0) {
    s.indefinite_m = true;
    if (rho == 0.0 || s.on_curvature != OnCurvature::ignore)
      s.status = Status::indefinite_preconditioner;
  }
  s.rho = rho;
}

void first_rho(CgScalars& s, const Complex* sums) { take_rho(s, sums[0].re); }

// p.p, x.p, x.x of the new direction
void measure_direction(CgScalars& s, const Complex* sums) {
  s.pp = sums[0].re;
  s.xp = sums[1].re;
  s.xx = sums[2].re;
}

// Positive root of |x + tau p| = radius.
double to_radius(const CgScalars& s) {
  const double room = s.radius * s.radius - s.xx;
  const double root = std::hypot(s.xp, std::sqrt(s.pp) * std::sqrt(room));
  return s.xp > 0.0 ? room / (s.xp + root) : (root - s.xp) / s.pp;
}

void step_to_radius(CgScalars& s) {
  s.alpha_x.re = to_radius(s);
  s.alpha.re = s.alpha_x.re / s.sigma;
  s.status = Status::trust_radius;
  s.last_step = true;
}

// p.v -> alpha
void step_length(CgScalars& s, const Complex* sums) {
  s.pAp = sums[0].re;
  if (!is_finite(s.pAp)) {
    s.status = Status::non_finite;
    return;
  }
  // p.p leaves the range of float64 when M has an extreme scale; then the sign of p.v must do.
  const bool comparable = s.pp > 0x1p-960 && s.pp < 0x1p960 && is_finite(s.pAp / s.pp);
  s.quotient = comparable ? s.pAp / s.pp : s.pAp;
  if (comparable) s.largest_quotient = std::fmax(s.largest_quotient, std::fabs(s.quotient));
  s.negative = comparable ? s.quotient <= s.epsilon * s.largest_quotient : s.pAp <= 0.0;
  if (s.negative && s.on_curvature == OnCurvature::stop) {
    s.status = Status::negative_curvature;
    return;
  }
  if (s.negative && s.on_curvature == OnCurvature::boundary) {
    step_to_radius(s);
  } else {
    s.negative = s.pAp <= 0.0;
    s.alpha.re = s.rho / s.pAp;
    s.alpha_x.re = s.sigma * s.alpha.re;
    if (!is_finite(s.alpha.re)) {
      s.status = Status::breakdown;
      return;
    }
    const double a = s.alpha_x.re;
    if (s.radius > 0.0 && s.xx + 2.0 * a * s.xp + a * a * s.pp >= s.radius * s.radius)
      step_to_radius(s);
  }
  s.phi += s.alpha.re * (0.5 * s.alpha.re * s.pAp - s.rho);
}

void new_residual(CgScalars& s, const Complex* sums) { s.rr = sums[0].re; }

void take_fixed_beta(CgScalars& s, double rho) {
  const double previous = s.rho;
  take_rho(s, rho);
  s.beta = {rho / previous, 0.0};
}

void take_flexible_beta(CgScalars& s, double rho, Complex vz) {
  const double previous = s.rho;
  take_rho(s, rho);
  s.beta = (-s.alpha.re / previous) * vz;
}

void fixed_beta(CgScalars& s, const Complex* sums) { take_fixed_beta(s, sums[0].re); }
void flexible_beta(CgScalars& s, const Complex* sums) {
  take_flexible_beta(s, sums[0].re, sums[1]);
}

void diagonal_residual(CgScalars& s, const Complex* sums) {
  s.rr = sums[0].re;
  if (s.flexible)
    take_flexible_beta(s, sums[1].re, sums[2]);
  else
    take_fixed_beta(s, sums[1].re);
}

class Cg final : public LinearSystem {
 public:
  static constexpr int p = kSystemSlots, z = p + 1, diag = p + 2, kSlots = p + 3;

  Cg(int64_t n, Dtype dtype, const SystemOptions& options, bool flexible)
      : LinearSystem(n, dtype, kSlots, options) {
    s_.flexible = flexible;
    s_.on_curvature = options.on_curvature;
    s_.radius = options.radius;
    s_.epsilon = 8.0 * epsilon(dtype);
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
        if (has_m())
          launch(PassId::Dot, {r, z}, {}, finish_of<first_rho>);
        else
          s_.rho = s_.rr;
        stage_ = Stage::first_direction;
        return Request::none;

      case Stage::first_direction:
        note_indefinite_m();
        if (s_.status != Status::running) return conclude(s_.status);
        launch(PassId::Direction, {p, has_m() ? z : r, x}, {}, finish_of<measure_direction>);
        stage_ = Stage::product;
        return Request::none;

      case Stage::product:
        stage_ = Stage::curvature;
        return ask(Request::multiply, p, v, p);

      case Stage::curvature:
        if (!take_supplied_dot(finish_of<step_length>))
          launch(PassId::Dot, {p, v}, {}, finish_of<step_length>);
        stage_ = Stage::residual;
        return Request::none;

      case Stage::residual:
        if (s_.negative) note_negative_curvature();
        if (s_.status != Status::running && !s_.last_step) return conclude(s_.status);
        rr_before_ = s_.rr;
        if (options().diagonal)
          launch(PassId::CgResidualDiag, {r, v, diag}, {&s_.alpha}, finish_of<diagonal_residual>);
        else
          launch(PassId::CgResidual, {r, v}, {&s_.alpha}, finish_of<new_residual>);
        stage_ = Stage::look;
        return Request::none;

      case Stage::look:
        return look();

      case Stage::beta:
        stage_ = Stage::direction;
        if (!has_m())
          take_fixed_beta(s_, s_.rr);
        else if (replaced_ || (!options().diagonal && !s_.flexible))
          launch(PassId::Dot, {r, z}, {}, finish_of<fixed_beta>);
        else if (!options().diagonal)  // whose beta came with the residual
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
    residual,
    look,
    beta,
    direction,
    close_last,
    verify,
    ended
  };

  bool has_m() const { return options().preconditioned || options().diagonal; }

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
    if (options().diagonal && !formed)
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
