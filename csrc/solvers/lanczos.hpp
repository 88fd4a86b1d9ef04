// Lanczos' tridiagonalisation of a Hermitian operator.
//
//   w = A v_j;  alpha_j = v_j.w;  w -= alpha_j v_j + beta_j v_{j-1};  beta_{j+1} = |w|;  v_{j+1} = w / beta_{j+1}
//
// Vectors moved in a step, without the product: 8 = {v.w} 2 + {w; w.w} 4 + {v = w / beta} 2; with full
// reorthogonalisation, w -= V (V^H w), 2 j + 3 more where j vectors are kept, and 2 j + 4 once more where cancellation
// was severe (Daniel, Gragg, Kaufman and Stewart 1976).
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
  enum class Stage { measure, normalise, product, alpha, subtract, remove, repeat, close, scale };
  struct Scalars {
    Complex alpha, beta, inverse;
    std::vector<Complex> weights;  // 0 and V^H w
    NormScales scales;
    double ww = 0.0, norm = 0.0;
  };
  static void take_alpha(Scalars& s, const Complex* sums);
  static void take_norm(Scalars& s, const Complex* sums);
  static void take_ww(Scalars& s, const Complex* sums);
  static void take_step(Scalars& s, const Complex* sums);
  static void take_projection(Scalars& s, const Complex* sums);

  Panel basis() const { return leading_slots(static_cast<int>(j_) + 1); }
  int row(int64_t j) const { return static_cast<int>(reorthogonalise_ ? j : j % 3); }

  Scalars s_;
  Stage stage_ = Stage::measure;
  const int steps_;
  const bool reorthogonalise_;
  int64_t j_ = 0;
  bool repeated_ = false;
  double scale_ = 0.0;
};

}  // namespace krylov
