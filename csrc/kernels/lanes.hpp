// Registers of float64 lanes for one instruction set, with GCC/Clang vector types: no STL, and intrinsics only to widen
// and narrow, which GCC would do by halves and quarters of a register.
// Everything lives in the namespace of the instruction set, so that the linker can never mix two of them.
#pragma once

#include "core/types.hpp"

#if KRYLOV_VECTOR_BYTES > 16
#include <immintrin.h>
#endif

namespace krylov {
namespace KRYLOV_ISA_NAMESPACE {

#define KRYLOV_INLINE static inline __attribute__((always_inline))

constexpr int kWidth = KRYLOV_VECTOR_BYTES / 8;
typedef double Vec __attribute__((vector_size(KRYLOV_VECTOR_BYTES)));
typedef float HalfVec __attribute__((vector_size(KRYLOV_VECTOR_BYTES / 2)));
typedef uint32_t HalfBits __attribute__((vector_size(KRYLOV_VECTOR_BYTES / 2)));
typedef uint16_t QuarterBits __attribute__((vector_size(KRYLOV_VECTOR_BYTES / 4)));

// The upper half of a float32; storage only.
struct BFloat16 {
  uint16_t bits;
};

#if KRYLOV_VECTOR_BYTES == 64
// The masks are full: GCC 12 takes the unmasked forms for reads of uninitialised registers.
KRYLOV_INLINE Vec widen(HalfVec v) { return (Vec)_mm512_maskz_cvtps_pd(0xff, (__m256)v); }
KRYLOV_INLINE HalfVec narrow(Vec v) { return (HalfVec)_mm512_maskz_cvtpd_ps(0xff, (__m512d)v); }
KRYLOV_INLINE HalfBits widen(QuarterBits v) { return (HalfBits)_mm256_cvtepu16_epi32((__m128i)v); }
#elif KRYLOV_VECTOR_BYTES == 32
KRYLOV_INLINE Vec widen(HalfVec v) { return (Vec)_mm256_cvtps_pd((__m128)v); }
KRYLOV_INLINE HalfVec narrow(Vec v) { return (HalfVec)_mm256_cvtpd_ps((__m256d)v); }
KRYLOV_INLINE HalfBits widen(QuarterBits v) {
  return (HalfBits)_mm_cvtepu16_epi32(_mm_loadl_epi64((const __m128i*)&v));
}
#else
KRYLOV_INLINE Vec widen(HalfVec v) { return __builtin_convertvector(v, Vec); }
KRYLOV_INLINE HalfVec narrow(Vec v) { return __builtin_convertvector(v, HalfVec); }
KRYLOV_INLINE HalfBits widen(QuarterBits v) { return __builtin_convertvector(v, HalfBits); }
#endif

KRYLOV_INLINE Vec load(const double* p) {
  Vec v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
KRYLOV_INLINE Vec load(const float* p) {
  HalfVec v;
  __builtin_memcpy(&v, p, sizeof v);
  return widen(v);
}
KRYLOV_INLINE void store(double* p, Vec v) { __builtin_memcpy(p, &v, sizeof v); }
KRYLOV_INLINE void store(float* p, Vec v) {
  const HalfVec h = narrow(v);
  __builtin_memcpy(p, &h, sizeof h);
}

KRYLOV_INLINE Vec load(const BFloat16* p) {
  QuarterBits q;
  __builtin_memcpy(&q, p, sizeof q);
  const HalfBits bits = widen(q) << 16;
  HalfVec v;
  __builtin_memcpy(&v, &bits, sizeof v);
  return widen(v);
}
// Through float32, to nearest, ties to even; NaN stays NaN.
KRYLOV_INLINE void store(BFloat16* p, Vec v) {
  const HalfVec h = narrow(v);
  HalfBits bits;
  __builtin_memcpy(&bits, &h, sizeof bits);
  const HalfBits number = (HalfBits)(h == h);
  bits = bits + ((0x7fffu + (bits >> 16 & 1u)) & number);
  const QuarterBits q = __builtin_convertvector(bits >> 16, QuarterBits);
  __builtin_memcpy(p, &q, sizeof q);
}

#if KRYLOV_VECTOR_BYTES == 64
#define KRYLOV_SHUFFLE(v, a, b) \
  __builtin_shufflevector(v, v, a, b, 2 + a, 2 + b, 4 + a, 4 + b, 6 + a, 6 + b)
#elif KRYLOV_VECTOR_BYTES == 32
#define KRYLOV_SHUFFLE(v, a, b) __builtin_shufflevector(v, v, a, b, 2 + a, 2 + b)
#else
#define KRYLOV_SHUFFLE(v, a, b) __builtin_shufflevector(v, v, a, b)
#endif

KRYLOV_INLINE Vec broadcast(double even, double odd) {
  Vec v;
  for (int i = 0; i < kWidth; i += 2) {
    v[i] = even;
    v[i + 1] = odd;
  }
  return v;
}

struct Real {
  typedef Vec V;
  typedef Vec C;
  struct S {
    Vec re;
  };
  KRYLOV_INLINE C coefficient(double re, double) { return broadcast(re, re); }
  KRYLOV_INLINE V mul(C c, V z) { return c * z; }
  KRYLOV_INLINE V times(V a, V b) { return a * b; }
  KRYLOV_INLINE void dot(S& s, V a, V b) { s.re += a * b; }
};

// Interleaved (re, im) pairs. A product with c needs z and z with its parts swapped; the imaginary part of a dot is
// the sum over even lanes less the sum over odd lanes of a swap(b).
struct Interleaved {
  typedef Vec V;
  struct C {
    Vec re, im;
  };
  struct S {
    Vec re, im;
  };
  KRYLOV_INLINE V swap(V z) { return KRYLOV_SHUFFLE(z, 1, 0); }
  KRYLOV_INLINE C coefficient(double re, double im) {
    return {broadcast(re, re), broadcast(-im, im)};
  }
  KRYLOV_INLINE V mul(const C& c, V z) { return c.re * z + c.im * swap(z); }
  KRYLOV_INLINE V times(V a, V b) {
    return KRYLOV_SHUFFLE(a, 0, 0) * b + KRYLOV_SHUFFLE(a, 1, 1) * broadcast(-1.0, 1.0) * swap(b);
  }
  KRYLOV_INLINE void dot(S& s, V a, V b) {
    s.re += a * b;
    s.im += a * swap(b);
  }
};

}  // namespace KRYLOV_ISA_NAMESPACE
}  // namespace krylov
