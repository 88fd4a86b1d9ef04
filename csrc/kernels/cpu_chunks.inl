// Compiles every pass for one instruction set. Included once per isa_*.cpp, which defines KRYLOV_ISA_NAMESPACE and
// KRYLOV_VECTOR_BYTES. Serial code only: blocks are handed to threads by blocked.cpp.
#include "kernels/bodies.hpp"
#include "kernels/chunks.hpp"
#include "kernels/lanes.hpp"

namespace krylov {
namespace KRYLOV_ISA_NAMESPACE {

constexpr int kUnroll = kLanes / kWidth;

// Fixed tree over the lanes: 16 -> 8 -> 4 -> 2 -> 1.
KRYLOV_INLINE double tree_sum(double* lanes) {
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

KRYLOV_INLINE Complex lane_total(const Real::S* s, int stride) {
  double lanes[kLanes];
  for (int u = 0; u < kUnroll; ++u) store(lanes + u * kWidth, s[u * stride].re);
  return {tree_sum(lanes), 0.0};
}

KRYLOV_INLINE Complex lane_total(const Interleaved::S* s, int stride) {
  double lanes[kLanes];
  for (int u = 0; u < kUnroll; ++u) store(lanes + u * kWidth, s[u * stride].re);
  const double re = tree_sum(lanes);
  for (int u = 0; u < kUnroll; ++u)
    store(lanes + u * kWidth, s[u * stride].im * broadcast(1.0, -1.0));
  return {re, tree_sum(lanes)};
}

// One step of kWidth reals at offset i.
template <class P, class F, class T>
KRYLOV_INLINE void step(T* const* v, int64_t i, const typename F::C* c, typename F::S* s) {
  typename F::V e[P::pass.vectors];
#pragma GCC unroll 8
  for (int k = 0; k < P::pass.vectors; ++k)
    if (P::pass.loaded >> k & 1u) e[k] = load(v[k] + i);
  P::template element<F>(e, c, s);
#pragma GCC unroll 8
  for (int k = 0; k < P::pass.vectors; ++k)
    if (P::pass.stored >> k & 1u) store(v[k] + i, e[k]);
}

// The last, incomplete step: lanes past the end hold zeros, which add nothing to any sum.
template <class P, class F, class T>
KRYLOV_INLINE void last_step(T* const* v, int64_t i, int count, const typename F::C* c,
                             typename F::S* s) {
  T padded[P::pass.vectors][kWidth] = {};
  T* rows[P::pass.vectors];
  for (int k = 0; k < P::pass.vectors; ++k) {
    rows[k] = padded[k];
    if (P::pass.loaded >> k & 1u)
      for (int j = 0; j < count; ++j) padded[k][j] = v[k][i + j];
  }
  step<P, F, T>(rows, 0, c, s);
  for (int k = 0; k < P::pass.vectors; ++k)
    if (P::pass.stored >> k & 1u)
      for (int j = 0; j < count; ++j) v[k][i + j] = padded[k][j];
}

template <class P, class F, class T>
static void chunk(const PassCall& call, int64_t first, int64_t last) {
  constexpr int sums = P::pass.sums;
  const int64_t length = real_length(call.n, call.dtype);
  T* v[P::pass.vectors];
  for (int k = 0; k < P::pass.vectors; ++k) v[k] = static_cast<T*>(call.vectors[k]);
  typename F::C c[P::pass.coefs + 1];
  for (int k = 0; k < P::pass.coefs; ++k)
    c[k] = F::coefficient(call.coefs[k]->re, call.coefs[k]->im);

  for (int64_t block = first; block < last; ++block) {
    int64_t i = block * kBlock;
    const int64_t end = i + kBlock < length ? i + kBlock : length;
    typename F::S s[kUnroll * (sums + 1)] = {};
    for (; i + kLanes <= end; i += kLanes) {
#pragma GCC unroll 8
      for (int u = 0; u < kUnroll; ++u) step<P, F, T>(v, i + u * kWidth, c, s + u * (sums + 1));
    }
    for (int u = 0; i < end; ++u, i += kWidth) {
      const int64_t left = end - i;
      if (left >= kWidth)
        step<P, F, T>(v, i, c, s + u * (sums + 1));
      else
        last_step<P, F, T>(v, i, static_cast<int>(left), c, s + u * (sums + 1));
    }
    for (int k = 0; k < sums; ++k) call.partials[block * sums + k] = lane_total(s + k, sums + 1);
  }
}

}  // namespace KRYLOV_ISA_NAMESPACE
}  // namespace krylov

#include "kernels/panel_chunks.inl"

namespace krylov {
namespace KRYLOV_ISA_NAMESPACE {

#define KRYLOV_MIXED(op) \
  { \
    {nullptr, op<Real, float, float>, op<Real, float, BFloat16>}, \
        {op<Real, double, double>, op<Real, double, float>, op<Real, double, BFloat16>}, \
        {nullptr, op<Interleaved, float, float>, op<Interleaved, float, BFloat16>}, { \
      op<Interleaved, double, double>, op<Interleaved, double, float>, \
          op<Interleaved, double, BFloat16> \
    } \
  }
#define KRYLOV_STORED(op, F) {op<F, double>, op<F, float>, op<F, BFloat16>}
#define KRYLOV_UNMIXED(op) \
  {KRYLOV_STORED(op, Real), KRYLOV_STORED(op, Real), KRYLOV_STORED(op, Interleaved), \
   KRYLOV_STORED(op, Interleaved)}

const ChunkTable chunks = {{
#define X(id, ...) \
  {chunk<id, Real, float>, chunk<id, Real, double>, chunk<id, Interleaved, float>, \
   chunk<id, Interleaved, double>},
                               KRYLOV_PASSES(X)
#undef X
                           },
                           {KRYLOV_MIXED(project), KRYLOV_MIXED(combine), KRYLOV_UNMIXED(gram),
                            KRYLOV_MIXED(put), KRYLOV_UNMIXED(rotate)}};

}  // namespace KRYLOV_ISA_NAMESPACE
}  // namespace krylov
