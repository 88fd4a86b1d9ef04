// The few plain types that every layer shares. No STL, and functions are static: this header is compiled for every
// instruction set, and none may emit a symbol that the linker could take for another's.
#pragma once

#include <stdint.h>

#if defined(__CUDACC__)
#define KRYLOV_HD __host__ __device__
#else
#define KRYLOV_HD
#endif

namespace krylov {

enum class Dtype : int { float32, float64, complex64, complex128 };
constexpr int kDtypes = 4;

KRYLOV_HD static constexpr bool is_complex(Dtype t) {
  return t == Dtype::complex64 || t == Dtype::complex128;
}
KRYLOV_HD static constexpr bool is_single(Dtype t) {
  return t == Dtype::float32 || t == Dtype::complex64;
}
KRYLOV_HD static constexpr int item_size(Dtype t) {
  return (is_single(t) ? 4 : 8) * (is_complex(t) ? 2 : 1);
}
KRYLOV_HD static constexpr double epsilon(Dtype t) { return is_single(t) ? 0x1p-23 : 0x1p-52; }

// A scalar of a recurrence: float64 whatever the vectors are; the imaginary part of a real run is zero.
struct Complex {
  double re = 0.0;
  double im = 0.0;
};

KRYLOV_HD inline Complex operator-(Complex a) { return {-a.re, -a.im}; }
KRYLOV_HD inline Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
KRYLOV_HD inline Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
KRYLOV_HD inline Complex operator*(double s, Complex a) { return {s * a.re, s * a.im}; }
KRYLOV_HD inline Complex operator*(Complex a, Complex b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
KRYLOV_HD inline Complex conj(Complex a) { return {a.re, -a.im}; }
KRYLOV_HD inline double norm2(Complex a) { return a.re * a.re + a.im * a.im; }
KRYLOV_HD inline double abs(Complex a) { return __builtin_hypot(a.re, a.im); }
// Smith's algorithm: no overflow in |b|^2. A real divisor divides exactly as float64 does.
KRYLOV_HD inline Complex operator/(Complex a, Complex b) {
  if (b.im == 0.0) return {a.re / b.re, a.im / b.re};
  if (__builtin_fabs(b.re) >= __builtin_fabs(b.im)) {
    const double q = b.im / b.re, d = b.re + b.im * q;
    return {(a.re + a.im * q) / d, (a.im - a.re * q) / d};
  }
  const double q = b.re / b.im, d = b.re * q + b.im;
  return {(a.re * q + a.im) / d, (a.im * q - a.re) / d};
}
KRYLOV_HD inline bool is_finite(double a) { return __builtin_isfinite(a); }
KRYLOV_HD inline bool is_finite(Complex a) { return is_finite(a.re) && is_finite(a.im); }

}  // namespace krylov
