// The norm of a vector at any scale, from the three sums of the passes Norm and Residual (Blue 1978).
#pragma once

#include <cmath>

#include "core/types.hpp"

namespace krylov {

// Coefficients that those passes take: |tiny x|^2 cannot overflow, and |huge x|^2 cannot vanish even where x is
// subnormal.
struct NormScales {
  Complex tiny{0x1p-520, 0.0}, huge{0x1p900, 0.0};
};

// From x.x, |tiny x|^2, |huge x|^2: the first that is finite and far from underflow.
inline double safe_norm(const NormScales& scales, const Complex* sums) {
  const double plain = sums[0].re;
  if (plain > 0x1p-900 && plain < 0x1p1000) return std::sqrt(plain);
  if (plain >= 0x1p1000) return std::sqrt(sums[1].re) / scales.tiny.re;
  return std::isnan(plain) ? plain : std::sqrt(sums[2].re) / scales.huge.re;
}

}  // namespace krylov
