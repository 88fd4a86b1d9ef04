#include "solvers/lanczos.hpp"

#include <algorithm>
#include <cmath>

namespace krylov {

void Lanczos::take_alpha(Scalars& s, const Complex* sums) { s.alpha.re = sums[0].re; }
void Lanczos::take_norm(Scalars& s, const Complex* sums) { s.norm = safe_norm(s.scales, sums); }
void Lanczos::take_ww(Scalars& s, const Complex* sums) { s.ww = sums[0].re; }
// The same with V^H w behind, which stands behind the three sums of a norm when it is taken again.
void Lanczos::take_step(Scalars& s, const Complex* sums) {
  take_ww(s, sums);
  std::copy_n(sums + 1, s.weights.size() - 1, s.weights.begin() + 1);
}
void Lanczos::take_projection(Scalars& s, const Complex* sums) {
  std::copy_n(sums + 3, s.weights.size() - 1, s.weights.begin() + 1);
}

Lanczos::Lanczos(int64_t n, Dtype dtype, int steps, bool reorthogonalise)
    : Recurrence(n, dtype, reorthogonalise ? steps + 1 : 3),
      steps_(steps),
      reorthogonalise_(reorthogonalise) {
  trace_.alphas.reserve(static_cast<size_t>(steps));
  trace_.betas.reserve(static_cast<size_t>(steps));
  if (reorthogonalise) {
    reserve_columns(steps);
    s_.weights.reserve(static_cast<size_t>(steps) + 1);
  }
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
      trace_.alphas.push_back(s_.alpha.re);
      if (!reorthogonalise_) {
        launch(PassId::LanczosStep, {next, here, j_ > 0 ? row(j_ - 1) : here},
               {&s_.alpha, &s_.beta}, finish_of<take_ww>);
        stage_ = Stage::close;
        return Request::none;
      }
      s_.weights.assign(static_cast<size_t>(j_) + 2, {});
      launch_project(basis(), 0, PassId::LanczosStep, {next, here, j_ > 0 ? row(j_ - 1) : here},
                     {&s_.alpha, &s_.beta}, finish_of<take_step>);
      repeated_ = false;
      stage_ = Stage::remove;
      return Request::none;

    case Stage::remove:
      launch_combine(basis(), 2, -1, s_.weights.data(), PassId::Residual, {next, next, -1},
                     {&s_.scales.tiny, &s_.scales.huge}, finish_of<take_norm>);
      stage_ = Stage::repeat;
      return Request::none;

    case Stage::repeat:
      // Once more where most of the vector has been taken away.
      stage_ = Stage::close;
      if (repeated_ || s_.norm * s_.norm > 0.5 * s_.ww) return Request::none;
      repeated_ = true;
      launch_project(basis(), 0, PassId::Norm, {next}, {&s_.scales.tiny, &s_.scales.huge},
                     finish_of<take_projection>);
      stage_ = Stage::remove;
      return Request::none;

    case Stage::close: {
      if (!reorthogonalise_) s_.norm = std::sqrt(s_.ww);
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
