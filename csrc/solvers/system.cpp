#include "solvers/system.hpp"

#include <algorithm>
#include <cmath>

namespace krylov {
namespace {

void measure_b(SystemScalars& s, const Complex* sums) { s.b_norm = safe_norm(s.scales, sums); }

void measure_residual(SystemScalars& s, const Complex* sums) {
  s.residual_norm = safe_norm(s.scales, sums);
  s.rr = sums[0].re;
}

// phi(x0) = -x0.(r0 + b) / 2
void measure_quadratic(SystemScalars& s, const Complex* sums) {
  s.quadratic_start = -0.5 * (sums[0].re + sums[1].re);
}

void rescaled(SystemScalars& s, const Complex* sums) { s.rr = sums[0].re; }

}  // namespace

LinearSystem::LinearSystem(int64_t n, Dtype dtype, int vectors, const SystemOptions& options)
    : Recurrence(n, dtype, vectors), options_(options), phase_(Phase::measure_b) {
  trace_.reserve(options.maxiter);
}

double LinearSystem::residual_norm() const { return std::sqrt(common().rr) * common().sigma; }

bool LinearSystem::converged() const {
  const double norm = std::sqrt(common().rr);
  return norm < common().tolerance || norm == 0.0;
}

bool LinearSystem::seems_converged(double rr) const {
  const SystemScalars& s = common();
  const double norm = std::sqrt(rr), digits = epsilon(dtype());
  return norm < s.tolerance || norm <= digits * digits * s.first_norm;
}

Request LinearSystem::advance() {
  SystemScalars& s = common();
  if (status_ != Status::running) return ask(Request::done);
  switch (phase_) {
    case Phase::measure_b:
      launch(PassId::Norm, {b}, {&s.scales.tiny, &s.scales.huge}, finish_of<measure_b>);
      phase_ = Phase::ask_x0;
      return Request::none;

    case Phase::ask_x0:
      if (!is_finite(s.b_norm)) return end(Status::non_finite);
      if (s.b_norm == 0.0) {  // SciPy's contract: zeros, whatever x0
        launch(PassId::Copy, {x, b});
        true_residual_norm_ = 0.0;
        trace_.residual_norms.push_back(0.0);
        trace_.quadratic_values.push_back(0.0);
        return end(Status::converged);
      }
      phase_ = Phase::first_residual;
      return options_.has_x0 ? ask(Request::multiply, x, v) : Request::none;

    case Phase::first_residual:
      if (options_.has_x0) {
        launch(PassId::Residual, {r, b, v}, {&s.scales.tiny, &s.scales.huge},
               finish_of<measure_residual>);
      } else {
        launch(PassId::Copy, {r, b});
        launch(PassId::Norm, {r}, {&s.scales.tiny, &s.scales.huge}, finish_of<measure_residual>);
      }
      phase_ = options_.has_x0 ? Phase::first_quadratic : Phase::scale;
      return Request::none;

    case Phase::first_quadratic:
      launch(PassId::DotPair, {b, r, x}, {}, finish_of<measure_quadratic>);
      phase_ = Phase::scale;
      return Request::none;

    case Phase::scale:
      phase_ = Phase::begin;
      return scale_residual();

    case Phase::begin:
      return begin();

    case Phase::iterate:
      return iterate();

    case Phase::true_residual:
      launch(PassId::Residual, {r, b, v}, {&s.scales.tiny, &s.scales.huge},
             finish_of<measure_residual>);
      phase_ = Phase::rescale;
      return Request::none;

    case Phase::rescale:
      phase_ = Phase::judge_truth;
      return scale_residual();

    case Phase::judge_truth:
      return judge_truth();
  }
  return end(Status::breakdown);
}

// The residual in true units has just been formed: brings it to units of sigma, and sigma to the residual where that
// has become too large or too small for it.
Request LinearSystem::scale_residual() {
  SystemScalars& s = common();
  if (!is_finite(s.residual_norm)) {
    true_residual_norm_ = s.residual_norm;
    if (trace_.residual_norms.empty()) record_start();
    return end(Status::non_finite);
  }
  const double relative = s.residual_norm / s.sigma;
  const int limit = is_single(dtype()) ? 40 : 300;
  if (s.residual_norm > 0.0 && (relative == 0.0 || std::abs(std::ilogb(relative)) > limit)) {
    s.quadratic_start += s.phi * s.sigma * s.sigma;
    s.phi = 0.0;
    // 1 / sigma must be representable too.
    s.sigma = std::ldexp(1.0, std::clamp(std::ilogb(s.residual_norm), -1020, 1020));
    s.inv_sigma.re = 1.0 / s.sigma;
    saved_true_rr_ = -1.0;  // was in the old units
  }
  s.tolerance = std::max(options_.atol, options_.rtol * s.b_norm) / s.sigma;
  if (s.sigma != 1.0) launch(PassId::Scale, {r}, {&s.inv_sigma}, finish_of<rescaled>);
  return Request::none;
}

Request LinearSystem::begin() {
  SystemScalars& s = common();
  true_residual_norm_ = s.residual_norm;  // of x0, just computed
  record_start();
  if (converged()) return end(Status::converged);
  if (options_.maxiter == 0) return end(Status::iteration_limit);
  true_residual_norm_ = -1.0;
  best_rr_ = s.rr;
  s.first_norm = std::sqrt(s.rr);
  phase_ = Phase::iterate;
  return Request::none;
}

Request LinearSystem::verify() {
  if (!options_.verify) return end(Status::converged);
  restart_reason_ = Status::running;
  phase_ = Phase::true_residual;
  return ask(Request::multiply, x, v);
}

Request LinearSystem::restart_after(Status why) {
  if (restarts_ >= options_.max_restarts) return conclude(why);
  restart_reason_ = why;
  phase_ = Phase::true_residual;
  return ask(Request::multiply, x, v);
}

Request LinearSystem::judge_truth() {
  SystemScalars& s = common();
  true_residual_norm_ = s.residual_norm;
  if (ending_ != Status::running)
    return end(ending_ == Status::iteration_limit && converged() ? Status::converged : ending_);
  if (converged()) return end(Status::converged);
  if (restart_reason_ == Status::running) {
    // The recurrence had drifted from the truth. Go on from the true residual as long as that helps.
    const bool useful = last_verified_ < 0.0 || s.residual_norm < 0.5 * last_verified_;
    last_verified_ =
        last_verified_ < 0.0 ? s.residual_norm : std::min(last_verified_, s.residual_norm);
    useless_verifications_ = useful ? 0 : useless_verifications_ + 1;
    if (useless_verifications_ >= 2) return conclude(Status::stagnation);
  }
  if (iterations_ >= options_.maxiter) return conclude(Status::iteration_limit);
  // What the recurrence believed of earlier iterates was as wrong; this residual is the truth to beat.
  const bool overwritten = saved_rr_ != saved_true_rr_;
  if (saved_true_rr_ < 0.0 || overwritten || s.rr < saved_true_rr_) {
    launch(PassId::Copy, {best, x});
    saved_true_rr_ = s.rr;
  }
  best_rr_ = saved_rr_ = saved_true_rr_;
  s.first_norm = std::sqrt(s.rr);
  true_residual_norm_ = -1.0;
  ++restarts_;
  phase_ = Phase::iterate;
  restart();
  return Request::none;
}

bool LinearSystem::leaves_best(double rr, double new_rr) {
  if (!(rr <= best_rr_)) return false;
  best_rr_ = rr;
  if (new_rr <= rr) return false;
  saved_rr_ = rr;
  return true;
}

void LinearSystem::keep_best(double rr, double new_rr) {
  if (leaves_best(rr, new_rr)) launch(PassId::Copy, {best, x});
}

Request LinearSystem::conclude(Status why) {
  const bool as_it_is =
      why == Status::stopped || why == Status::trust_radius || why == Status::negative_curvature;
  if (as_it_is || !options_.verify) return end(why);
  if (saved_rr_ >= 0.0 && !(common().rr <= saved_rr_)) launch(PassId::Copy, {x, best});
  ending_ = why;
  phase_ = Phase::true_residual;
  return ask(Request::multiply, x, v);
}

void LinearSystem::record_start() {
  trace_.residual_norms.push_back(common().residual_norm);
  trace_.quadratic_values.push_back(common().quadratic_start);
}

void LinearSystem::record_iteration() {
  const SystemScalars& s = common();
  ++iterations_;
  trace_.residual_norms.push_back(std::sqrt(s.rr) * s.sigma);
  trace_.quadratic_values.push_back(s.quadratic_start + s.phi * s.sigma * s.sigma);
}

Request LinearSystem::close_iteration() {
  const bool due = options_.judge_every > 0 && iterations_ % options_.judge_every == 0;
  return due ? ask(Request::judge) : Request::none;
}

}  // namespace krylov
