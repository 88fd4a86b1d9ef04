// Lanczos' tridiagonalisation of a Hermitian operator.
//
//   w = A v_j;  alpha_j = v_j.w;  w -= alpha_j v_j + beta_j v_{j-1};  beta_{j+1} = |w|;  v_{j+1} = w / beta_{j+1}
//
// Vectors moved in a step, without the product: 8 = {v.w} 2 + {w; w.w} 4 + {v = w / beta} 2; with full
// reorthogonalisation 5 more for each vector before it, twice where cancellation was severe (Daniel, Gragg, Kaufman and
// Stewart 1976).
#pragma once

#include "solvers/norm.hpp"
#include "solvers/recurrence.hpp"

namespace krylov {

// Slot j is basis vector v_j. Without reorthogonalisation three vectors take turns.
class Lanczos final : public Recurrence {
 public:
  Lanczos(int64_t n, Dtype dtype, int steps, bool reorthogonalise);

  bool persistent(int) const override { return true; }
  const char* slot_name(int) const override { return "basis"; }

 protected:
  Request advance() override;
  void* scalars() override { return &s_; }

 private:
  enum class Stage {
    measure,
    normalise,
    product,
    alpha,
    subtract,
    sweep,
    project,
    remove,
    close,
    scale
  };
  struct Scalars {
    Complex alpha, beta, projection, inverse;
    NormScales scales;
    double ww = 0.0, norm = 0.0;
  };
  static void take_alpha(Scalars& s, const Complex* sums);
  static void take_norm(Scalars& s, const Complex* sums);
  static void take_ww(Scalars& s, const Complex* sums);
  static void take_projection(Scalars& s, const Complex* sums);

  int row(int64_t j) const { return static_cast<int>(reorthogonalise_ ? j : j % 3); }

  Scalars s_;
  Stage stage_ = Stage::measure;
  const int steps_;
  const bool reorthogonalise_;
  int64_t j_ = 0;
  int64_t against_ = 0;
  int sweeps_ = 0;
  double scale_ = 0.0;
};

}  // namespace krylov
