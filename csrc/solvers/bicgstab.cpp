// Bi-CG-STAB (van der Vorst 1992; Saad 2003, algorithm 7.7; He 2016, algorithm 3), preconditioned from the right.
//
//   v = A M p;  alpha = rho / (r0.v);  s = r - alpha v
//   t = A M s;  omega = t.s / t.t;  x += alpha M p + omega M s;  r = s - omega t
//   rho' = r0.s - omega r0.t;  beta = (rho' / rho)(alpha / omega);  p = r + beta (p - omega v)
//
// Vectors moved in an iteration, without the products (an element read or written counts one):
//   16 = {r0.v} 2 + {s = r - alpha v; s.s} 3 + {t.s, t.t, r0.t, r0.s} 3 + {x, r, p; r.r} 8       without M
//   18 = the same with M p and M s read by the last pass
//
// Deviations from the textbook: (1) rho' comes from the sums of the third pass, so the last one needs no r0; (2) t is
// summed as c t with a power of two c near |alpha|, which keeps t.t in range whatever the scale of A; (3) every
// breakdown test is relative, and to epsilon^2: short of that going on is better than starting anew, and a result is
// verified; (4) a breakdown restarts from the true residual with r0 = r, and with a seeded random r0
// when it comes back at once, as often as max_restarts allows; (5) an exact half step ends the iteration.
#include <algorithm>
#include <cmath>

#include "core/random.hpp"
#include "solvers/registry.hpp"

namespace krylov {
namespace {

struct BiScalars : SystemScalars {
  Complex rho, alpha, omega, beta, alpha_x, omega_x, t_scale{1.0, 0.0};
  double shadow_norm = 0.0;   // |r0|
  double half_rr = 0.0;       // s.s
  double predicted_rr = 0.0;  // of r, before it is formed
  double epsilon_squared = 0.0;
  double xb = 0.0, xr = 0.0;  // of the iterate; xr in units of sigma
};

void new_shadow(BiScalars& s, const Complex* sums) { s.shadow_norm = std::sqrt(sums[0].re); }
void first_rho(BiScalars& s, const Complex* sums) { s.rho = sums[0]; }

// rho = r0.r is lost in rounding: nothing can be gained along this shadow vector.
bool rho_vanishes(const BiScalars& s) {
  return abs(s.rho) <= s.epsilon_squared * s.shadow_norm * std::sqrt(s.rr);
}

// r0.v -> alpha
void step_length(BiScalars& s, const Complex* sums) {
  if (!is_finite(sums[0])) {
    s.status = Status::non_finite;
    return;
  }
  s.alpha = s.rho / sums[0];
  if (!is_finite(s.alpha)) {
    s.status = Status::breakdown_rho;
    return;
  }
  s.alpha_x = s.sigma * s.alpha;
  const double size = abs(s.alpha);
  s.t_scale.re = size > 0.0 ? std::ldexp(1.0, std::clamp(std::ilogb(size), -1000, 1000)) : 1.0;
}

void half_residual(BiScalars& s, const Complex* sums) { s.half_rr = sums[0].re; }

// t'.s, t'.t', r0.t', r0.s with t' = c t -> omega, beta
void stabilise(BiScalars& s, const Complex* sums) {
  const double c = s.t_scale.re, tt = sums[1].re;
  if (!is_finite(tt) || !is_finite(sums[0])) {
    s.status = Status::non_finite;
    return;
  }
  if (abs(sums[0]) <= s.epsilon_squared * std::sqrt(tt) * std::sqrt(s.half_rr)) {
    s.status = Status::breakdown_omega;
    return;
  }
  s.omega = (c / tt) * sums[0];
  s.omega_x = s.sigma * s.omega;
  const Complex rho = sums[3] - (1.0 / c) * (s.omega * sums[2]);
  s.beta = (rho / s.rho) * (s.alpha / s.omega);
  if (!is_finite(s.omega) || !is_finite(s.beta)) {
    s.status = Status::breakdown_omega;
    return;
  }
  s.rho = rho;
  s.predicted_rr = s.half_rr - norm2(sums[0]) / tt;
}

void new_residual(BiScalars& s, const Complex* sums) { s.rr = sums[0].re; }

void measure_iterate(BiScalars& s, const Complex* sums) {
  s.xb = sums[0].re;
  s.xr = sums[1].re;
}

class BiCgStab final : public LinearSystem {
 public:
  static constexpr int p = kSystemSlots, t = p + 1, shadow = p + 2, mp = p + 3, ms = p + 4,
                       kSlots = p + 5;

  BiCgStab(int64_t n, Dtype dtype, const SystemOptions& options)
      : LinearSystem(n, dtype, kSlots, options) {
    s_.epsilon_squared = epsilon(dtype) * epsilon(dtype);
  }

  // v outlives the product with s; so do M p and M s.
  bool persistent(int slot) const override { return slot == v || slot == mp || slot == ms; }
  const char* slot_name(int slot) const override {
    static const char* const names[] = {"b", "x", "r", "v", "best", "p", "t", "shadow", "mp", "ms"};
    return names[slot];
  }

 protected:
  SystemScalars& common() override { return s_; }
  void* scalars() override { return &s_; }

  Request iterate() override {
    const bool m = options().preconditioned;
    switch (stage_) {
      case Stage::start:
        launch(PassId::Copy, {p, r});
        if (random_shadow_)
          fill_random(vector(shadow), size(), dtype(), static_cast<uint64_t>(restarts_));
        else
          launch(PassId::Copy, {shadow, r});
        launch(PassId::Norm, {shadow}, {&s_.scales.tiny, &s_.scales.huge}, finish_of<new_shadow>);
        stage_ = Stage::rho;
        return Request::none;

      case Stage::rho:
        launch(PassId::Dot, {shadow, r}, {}, finish_of<first_rho>);
        stage_ = Stage::precondition_p;
        return Request::none;

      case Stage::precondition_p:
        if (rho_vanishes(s_)) return break_down(Status::breakdown_rho);
        stage_ = Stage::product_p;
        return m ? ask(Request::precondition, p, mp) : Request::none;

      case Stage::product_p:
        stage_ = Stage::alpha;
        return ask(Request::multiply, m ? mp : p, v, shadow);

      case Stage::alpha:
        if (!take_supplied_dot(finish_of<step_length>))
          launch(PassId::Dot, {shadow, v}, {}, finish_of<step_length>);
        stage_ = Stage::half;
        return Request::none;

      case Stage::half:
        if (s_.status != Status::running) return break_down(s_.status);
        rr_before_ = s_.rr;
        ended_at_half_step_ = false;
        launch(PassId::HalfStep, {r, v}, {&s_.alpha}, finish_of<half_residual>);
        stage_ = Stage::precondition_s;
        return Request::none;

      case Stage::precondition_s:
        return after_half_step();

      case Stage::product_s:
        stage_ = Stage::omega;
        return ask(Request::multiply, m ? ms : r, t);

      case Stage::omega:
        launch(PassId::Stabilise, {t, r, shadow}, {&s_.t_scale}, finish_of<stabilise>);
        stage_ = Stage::update;
        return Request::none;

      case Stage::update:
        return update();

      case Stage::measure:
        if (!is_finite(s_.rr)) return conclude(Status::non_finite);
        if (options().track) launch(PassId::DotPair, {b, r, x}, {}, finish_of<measure_iterate>);
        stage_ = Stage::close;
        return Request::none;

      case Stage::close:
        record();
        stage_ = Stage::next;
        return close_iteration();

      case Stage::next:
        if (s_.status != Status::running) return break_down(s_.status);
        if (seems_converged()) return verify();
        if (beyond_recovery()) return break_down(Status::divergence);
        if (iterations_ >= options().maxiter) return conclude(Status::iteration_limit);
        stage_ = Stage::precondition_p;
        return Request::none;
    }
    return end(Status::breakdown);
  }

  void restart() override { stage_ = Stage::start; }

 private:
  enum class Stage {
    start,
    rho,
    precondition_p,
    product_p,
    alpha,
    half,
    precondition_s,
    product_s,
    omega,
    update,
    measure,
    close,
    next
  };

  Request after_half_step() {
    if (!is_finite(s_.half_rr)) return break_down(Status::breakdown_rho);
    if (seems_converged(s_.half_rr)) return end_at_half_step();
    stage_ = Stage::product_s;
    return options().preconditioned ? ask(Request::precondition, r, ms) : Request::none;
  }

  // The digits of b are lost in a residual this large; no later iterate can have a small true residual.
  bool beyond_recovery() const { return std::sqrt(s_.rr) * s_.epsilon_squared > s_.first_norm; }

  Request end_at_half_step() {
    launch(PassId::Axpy, {x, options().preconditioned ? mp : p}, {&s_.alpha_x});
    s_.rr = s_.half_rr;
    ended_at_half_step_ = true;
    stage_ = Stage::measure;
    return Request::none;
  }

  Request update() {
    if (s_.status == Status::breakdown_omega)
      return end_at_half_step();  // s is the residual of x + alpha M p
    if (s_.status != Status::running) return break_down(s_.status);
    keep_best(rr_before_, s_.predicted_rr);
    if (options().preconditioned)
      launch(PassId::BiStepM, {x, r, p, t, v, mp, ms},
             {&s_.alpha_x, &s_.omega_x, &s_.omega, &s_.beta}, finish_of<new_residual>);
    else
      launch(PassId::BiStep, {x, r, p, t, v}, {&s_.alpha_x, &s_.omega_x, &s_.omega, &s_.beta},
             finish_of<new_residual>);
    stage_ = Stage::measure;
    return Request::none;
  }

  Request break_down(Status why) {
    s_.status = Status::running;
    if (why == Status::non_finite) return conclude(why);
    random_shadow_ = iterations_ == broken_at_;
    broken_at_ = iterations_;
    return restart_after(why);
  }

  void record() {
    record_iteration();
    if (!options().track) return;
    // d = sign(b.x) x is a descent direction of the quadratic model; its curvature is that of x.
    const double curvature = s_.xb - s_.sigma * s_.xr;
    trace_.curvatures.push_back(curvature);
    trace_.signs.push_back(s_.xb < 0.0 ? -1.0 : 1.0);
    trace_.quadratic_values.back() = 0.5 * curvature - std::fabs(s_.xb);
    if (curvature < 0.0) ++negative_curvatures_;
  }

  BiScalars s_;
  Stage stage_ = Stage::start;
  bool random_shadow_ = false;
  int64_t broken_at_ = -1;
  double rr_before_ = 0.0;
};

}  // namespace

std::unique_ptr<Recurrence> make_bicgstab(int64_t n, Dtype dtype, const SystemOptions& options) {
  return std::make_unique<BiCgStab>(n, dtype, options);
}

}  // namespace krylov
