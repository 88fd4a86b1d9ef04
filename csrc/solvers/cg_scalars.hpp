// Scalars of conjugate gradients, and what the sums of each pass make of them.
#pragma once

#include <cmath>
#include <vector>

#include "lowrank/low_rank.hpp"
#include "solvers/system.hpp"

namespace krylov {

struct CgScalars : SystemScalars {
  Complex alpha, alpha_x, beta;  // alpha_x = sigma alpha: x is in the caller's units
  double rho = 0.0;              // r.z
  double pAp = 0.0, pp = 0.0, xp = 0.0, xx = 0.0;  // xp, xx in the units of x
  double largest_quotient = 0.0, quotient = 0.0;   // of p.v / p.p
  double epsilon = 0.0, radius = 0.0;
  OnCurvature on_curvature = OnCurvature::ignore;
  const LowRank* low_rank = nullptr;
  int64_t version = 0;                     // of M, when c was formed
  std::vector<Complex> c, c_old, weights;  // B^H r, before the step, gamma and K c
  bool flexible = false, last_step = false, negative = false, indefinite_m = false,
       m_changed = false;
};

// r.z of a preconditioned residual: where it is not positive, M is not positive definite.
inline void take_rho(CgScalars& s, double rho) {
  if (!is_finite(rho)) s.status = Status::non_finite;
  if (rho <= 0.0) {
    s.indefinite_m = true;
    if (rho == 0.0 || s.on_curvature != OnCurvature::ignore)
      s.status = Status::indefinite_preconditioner;
  }
  s.rho = rho;
}

inline void first_rho(CgScalars& s, const Complex* sums) { take_rho(s, sums[0].re); }

// p.p, x.p, x.x of the new direction
inline void measure_direction(CgScalars& s, const Complex* sums) {
  s.pp = sums[0].re;
  s.xp = sums[1].re;
  s.xx = sums[2].re;
}

// Positive root of |x + tau p| = radius.
inline double to_radius(const CgScalars& s) {
  const double room = s.radius * s.radius - s.xx;
  const double root = std::hypot(s.xp, std::sqrt(s.pp) * std::sqrt(room));
  return s.xp > 0.0 ? room / (s.xp + root) : (root - s.xp) / s.pp;
}

inline void step_to_radius(CgScalars& s) {
  s.alpha_x.re = to_radius(s);
  s.alpha.re = s.alpha_x.re / s.sigma;
  s.status = Status::trust_radius;
  s.last_step = true;
}

// p.v -> alpha
inline void step_length(CgScalars& s, const Complex* sums) {
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

inline void new_residual(CgScalars& s, const Complex* sums) { s.rr = sums[0].re; }

inline void take_fixed_beta(CgScalars& s, double rho) {
  const double previous = s.rho;
  take_rho(s, rho);
  s.beta = {rho / previous, 0.0};
}

inline void take_flexible_beta(CgScalars& s, double rho, Complex vz) {
  const double previous = s.rho;
  take_rho(s, rho);
  s.beta = (-s.alpha.re / previous) * vz;
}

inline void fixed_beta(CgScalars& s, const Complex* sums) { take_fixed_beta(s, sums[0].re); }
inline void flexible_beta(CgScalars& s, const Complex* sums) {
  take_flexible_beta(s, sums[0].re, sums[1]);
}

inline void diagonal_residual(CgScalars& s, const Complex* sums) {
  s.rr = sums[0].re;
  if (s.flexible)
    take_flexible_beta(s, sums[1].re, sums[2]);
  else
    take_fixed_beta(s, sums[1].re);
}

// c = B^H r of a low-rank M behind the sums of the pass: the weights of z = M r, and rho = r.z.
inline double take_projection(CgScalars& s, const Complex* c) {
  const auto count = static_cast<size_t>(s.low_rank->count());
  s.c.assign(c, c + count);
  s.version = s.low_rank->version();
  const Complex cd = s.low_rank->weigh(c, s.weights.data());
  return s.low_rank->gamma() * s.rr + cd.re;
}

inline void project_residual(CgScalars& s, const Complex* sums) {
  take_rho(s, take_projection(s, sums + 1));
}
inline void project_for_beta(CgScalars& s, const Complex* sums) {
  take_fixed_beta(s, take_projection(s, sums + 1));
}
// M has changed since, by learning or by its owner: r is the residual before the step, whose r.z stands.
inline void project_again(CgScalars& s, const Complex* sums) {
  take_projection(s, sums + 1);
  s.m_changed = true;
}

inline void low_rank_residual(CgScalars& s, const Complex* sums) {
  s.rr = sums[0].re;
  const Complex old_r = sums[1];
  s.c_old.swap(s.c);
  const double rho = take_projection(s, sums + 2);
  // A multiple of the identity leaves CG as it is, to the last bit.
  const bool plain = s.c_old.empty() && s.c.empty() && !s.m_changed;
  s.m_changed = false;
  if (!s.flexible || plain) {
    take_fixed_beta(s, rho);
    return;
  }
  // beta = (r - r_old).z / rho_old, where r_old.z = gamma r_old.r + c_old.d
  Complex old_z = s.low_rank->gamma() * old_r;
  for (size_t i = 0; i < s.c_old.size(); ++i) old_z = old_z + conj(s.c_old[i]) * s.weights[i + 1];
  const double previous = s.rho;
  take_rho(s, rho);
  s.beta = (1.0 / previous) * (Complex{rho, 0.0} - old_z);
}

}  // namespace krylov
