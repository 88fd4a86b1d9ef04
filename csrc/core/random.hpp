// Seeded random vectors for cold paths (shadow vectors, Lanczos starts): the same entries on every machine.
#pragma once

#include <stdint.h>

#include "core/types.hpp"

namespace krylov {

// Uniform in [-1, 1) by SplitMix64 (Steele, Lea and Flood 2014) of (seed, index).
inline double random_entry(uint64_t seed, uint64_t index) {
  uint64_t z = (seed << 40) + (index + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1p-52 - 1.0;
}

inline void fill_random(void* vector, int64_t n, Dtype dtype, uint64_t seed) {
  const int64_t length = is_complex(dtype) ? 2 * n : n;
  for (int64_t i = 0; i < length; ++i) {
    const double value = random_entry(seed, static_cast<uint64_t>(i));
    if (is_single(dtype))
      static_cast<float*>(vector)[i] = static_cast<float>(value);
    else
      static_cast<double*>(vector)[i] = value;
  }
}

}  // namespace krylov
