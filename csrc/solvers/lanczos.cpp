#include "solvers/lanczos.hpp"

#include <algorithm>
#include <cmath>

namespace krylov {

void Lanczos::take_alpha(Scalars& s, const Complex* sums) { s.alpha.re = sums[0].re; }
void Lanczos::take_norm(Scalars& s, const Complex* sums) { s.norm = safe_norm(s.scales, sums); }
void Lanczos::take_ww(Scalars& s, const Complex* sums) { s.ww = sums[0].re; }
void Lanczos::take_projection(Scalars& s, const Complex* sums) { s.projection = -sums[0]; }

Lanczos::Lanczos(int64_t n, Dtype dtype, int steps, bool reorthogonalise)
    : Recurrence(n, dtype, reorthogonalise ? steps + 1 : 3),
      steps_(steps),
      reorthogonalise_(reorthogonalise) {
  trace_.alphas.reserve(static_cast<size_t>(steps));
  trace_.betas.reserve(static_cast<size_t>(steps));
}

Request Lanczos::advance() {
  if (status_ != Status::running) return ask(Request::done);
  const int here = row(j_), next = row(j_ + 1);
  switch (stage_) {
    case Stage::measure:
      launch(PassId::Norm, {here}, {&s_.scales.tiny, &s_.scales.huge}, finish_of<take_norm>);
      stage_ = Stage::normalise;
      return Request::none;

    case Stage::normalise:
      if (!(s_.norm > 0.0) || !is_finite(s_.norm)) return end(Status::non_finite);
      s_.inverse.re = 1.0 / s_.norm;
      launch(PassId::Scale, {here}, {&s_.inverse});
      stage_ = Stage::product;
      return Request::none;

    case Stage::product:
      stage_ = Stage::alpha;
      return ask(Request::multiply, here, next, here);

    case Stage::alpha:
      if (!take_supplied_dot(finish_of<take_alpha>))
        launch(PassId::Dot, {here, next}, {}, finish_of<take_alpha>);
      stage_ = Stage::subtract;
      return Request::none;

    case Stage::subtract:
      if (!is_finite(s_.alpha)) return end(Status::non_finite);
      launch(PassId::LanczosStep, {next, here, j_ > 0 ? row(j_ - 1) : here}, {&s_.alpha, &s_.beta},
             finish_of<take_ww>);
      trace_.alphas.push_back(s_.alpha.re);
      sweeps_ = 0;
      stage_ = Stage::sweep;
      return Request::none;

    case Stage::sweep:
      // Orthogonalise again while a sweep has taken away most of the vector.
      if (!reorthogonalise_ || sweeps_ == 2 || (sweeps_ == 1 && s_.norm * s_.norm > 0.5 * s_.ww)) {
        stage_ = Stage::close;
        if (!reorthogonalise_) s_.norm = std::sqrt(s_.ww);
        return Request::none;
      }
      if (sweeps_ == 1) s_.ww = s_.norm * s_.norm;
      ++sweeps_;
      against_ = 0;
      stage_ = Stage::project;
      return Request::none;

    case Stage::project:
      if (against_ > j_) {
        launch(PassId::Norm, {next}, {&s_.scales.tiny, &s_.scales.huge}, finish_of<take_norm>);
        stage_ = Stage::sweep;
        return Request::none;
      }
      launch(PassId::Dot, {row(against_), next}, {}, finish_of<take_projection>);
      stage_ = Stage::remove;
      return Request::none;

    case Stage::remove:
      launch(PassId::Axpy, {next, row(against_)}, {&s_.projection});
      ++against_;
      stage_ = Stage::project;
      return Request::none;

    case Stage::close: {
      s_.beta.re = s_.norm;
      trace_.betas.push_back(s_.norm);
      ++iterations_;
      ++j_;
      scale_ = std::max({scale_, std::fabs(s_.alpha.re), s_.norm});
      if (!is_finite(s_.norm)) return end(Status::non_finite);
      // An invariant subspace: what is left of w is rounding.
      if (s_.norm <= 10.0 * epsilon(dtype()) * scale_) return end(Status::converged);
      if (iterations_ == steps_) return end(Status::iteration_limit);
      stage_ = Stage::scale;
      return ask(Request::judge);
    }

    case Stage::scale:
      s_.inverse.re = 1.0 / s_.norm;
      launch(PassId::Scale, {here}, {&s_.inverse});
      stage_ = Stage::product;
      return Request::none;
  }
  return end(Status::breakdown);
}

}  // namespace krylov
