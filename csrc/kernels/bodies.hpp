// What each pass does to one element, written once for every backend.
//
// F is the field: F::V an element (a register of float64 lanes on a CPU), F::C a coefficient, F::S a running sum,
//   F::mul(c, v) = c v        F::times(a, b) = a b elementwise        F::dot(s, a, b): s += conj(a) b
// e[k] holds vector k on entry and, where the pass stores it, on return. Arithmetic is float64; float32 vectors are
// widened on load and rounded on store, so their sums are float64 throughout.
#pragma once

#include "kernels/passes.hpp"

namespace krylov {
#ifdef KRYLOV_ISA_NAMESPACE
namespace KRYLOV_ISA_NAMESPACE {
#endif

#define KRYLOV_BODY(id) \
  struct id { \
    static constexpr PassInfo pass = info(PassId::id); \
    template <class F> \
    KRYLOV_HD static inline __attribute__((always_inline)) void element(typename F::V* e, \
                                                                        const typename F::C* c, \
                                                                        typename F::S* s); \
  }; \
  template <class F> \
  KRYLOV_HD inline __attribute__((always_inline)) void id::element( \
      [[maybe_unused]] typename F::V* e, [[maybe_unused]] const typename F::C* c, \
      [[maybe_unused]] typename F::S* s)

// y = x
KRYLOV_BODY(Copy) { e[0] = e[1]; }

// y += a x
KRYLOV_BODY(Axpy) { e[0] = e[0] + F::mul(c[0], e[1]); }

// y *= a;  y.y
KRYLOV_BODY(Scale) {
  e[0] = F::mul(c[0], e[0]);
  F::dot(s[0], e[0], e[0]);
}

// x.x, |a x|^2, |b x|^2: with a tiny and b huge one of them is finite and normal at any scale (Blue 1978)
KRYLOV_BODY(Norm) {
  F::dot(s[0], e[0], e[0]);
  const auto small = F::mul(c[0], e[0]), large = F::mul(c[1], e[0]);
  F::dot(s[1], small, small);
  F::dot(s[2], large, large);
}

// x.y
KRYLOV_BODY(Dot) { F::dot(s[0], e[0], e[1]); }

// x.z, y.z
KRYLOV_BODY(DotPair) {
  F::dot(s[0], e[0], e[2]);
  F::dot(s[1], e[1], e[2]);
}

// r = b - v, with the three sums of Norm
KRYLOV_BODY(Residual) {
  e[0] = e[1] - e[2];
  F::dot(s[0], e[0], e[0]);
  const auto small = F::mul(c[0], e[0]), large = F::mul(c[1], e[0]);
  F::dot(s[1], small, small);
  F::dot(s[2], large, large);
}

// p = z;  p.p, x.p, x.x
KRYLOV_BODY(Direction) {
  e[0] = e[1];
  F::dot(s[0], e[0], e[0]);
  F::dot(s[1], e[2], e[0]);
  F::dot(s[2], e[2], e[2]);
}

// r -= alpha v;  r.r
KRYLOV_BODY(CgResidual) {
  e[0] = e[0] - F::mul(c[0], e[1]);
  F::dot(s[0], e[0], e[0]);
}

// r -= alpha v;  r.r, r_old.r
KRYLOV_BODY(CgResidualOld) {
  const auto old = e[0];
  e[0] = old - F::mul(c[0], e[1]);
  F::dot(s[0], e[0], e[0]);
  F::dot(s[1], old, e[0]);
}

// r -= alpha v;  r.r, r.(D r), v.(D r): a diagonal preconditioner z = D r costs one read and z is never stored
KRYLOV_BODY(CgResidualDiag) {
  e[0] = e[0] - F::mul(c[0], e[1]);
  const auto z = F::times(e[2], e[0]);
  F::dot(s[0], e[0], e[0]);
  F::dot(s[1], e[0], z);
  F::dot(s[2], e[1], z);
}

// x += alpha p;  p = z + beta p;  p.p, x.p, x.x
KRYLOV_BODY(CgStep) {
  e[0] = e[0] + F::mul(c[0], e[1]);
  e[1] = e[2] + F::mul(c[1], e[1]);
  F::dot(s[0], e[1], e[1]);
  F::dot(s[1], e[0], e[1]);
  F::dot(s[2], e[0], e[0]);
}

// the same with z = D r
KRYLOV_BODY(CgStepDiag) {
  e[0] = e[0] + F::mul(c[0], e[1]);
  e[1] = F::times(e[3], e[2]) + F::mul(c[1], e[1]);
  F::dot(s[0], e[1], e[1]);
  F::dot(s[1], e[0], e[1]);
  F::dot(s[2], e[0], e[0]);
}

// s = r - alpha v, in the place of r;  s.s
KRYLOV_BODY(HalfStep) {
  e[0] = e[0] - F::mul(c[0], e[1]);
  F::dot(s[0], e[0], e[0]);
}

// t' = c t;  t'.s, t'.t', r0.t', r0.s: c brings t to the scale of s, so that t'.t' neither overflows nor vanishes
KRYLOV_BODY(Stabilise) {
  const auto t = F::mul(c[0], e[0]);
  F::dot(s[0], t, e[1]);
  F::dot(s[1], t, t);
  F::dot(s[2], e[2], t);
  F::dot(s[3], e[2], e[1]);
}

// x += alpha p + omega s;  r = s - omega' t;  p = r + beta p - beta omega v;  r.r      vectors x, s->r, p, t, v
KRYLOV_BODY(BiStep) {
  const auto p_old = e[2];
  e[0] = e[0] + (F::mul(c[0], p_old) + F::mul(c[1], e[1]));
  const auto residual = e[1] - F::mul(c[2], e[3]);
  e[2] = residual + F::mul(c[3], p_old - F::mul(c[2], e[4]));
  e[1] = residual;
  F::dot(s[0], residual, residual);
}

// the same with preconditioned directions: vectors x, s->r, p, t, v, p^ = M p, s^ = M s
KRYLOV_BODY(BiStepM) {
  e[0] = e[0] + (F::mul(c[0], e[5]) + F::mul(c[1], e[6]));
  const auto residual = e[1] - F::mul(c[2], e[3]);
  e[2] = residual + F::mul(c[3], e[2] - F::mul(c[2], e[4]));
  e[1] = residual;
  F::dot(s[0], residual, residual);
}

// y = d x
KRYLOV_BODY(Multiply) { e[0] = F::times(e[1], e[2]); }

// x += eta r;  r -= eta' v  (v = A r);  r.r, r_old.v
KRYLOV_BODY(Relax) {
  const auto old = e[1];
  e[0] = e[0] + F::mul(c[0], old);
  e[1] = old - F::mul(c[1], e[2]);
  F::dot(s[0], e[1], e[1]);
  F::dot(s[1], old, e[2]);
}

// x += eta z;  r -= eta' v  (z = M r, v = A z);  r.r, z.v, r_old.z
KRYLOV_BODY(RelaxM) {
  const auto old = e[1];
  e[0] = e[0] + F::mul(c[0], e[3]);
  e[1] = old - F::mul(c[1], e[2]);
  F::dot(s[0], e[1], e[1]);
  F::dot(s[1], e[3], e[2]);
  F::dot(s[2], old, e[3]);
}

// w -= alpha v + beta u;  w.w
KRYLOV_BODY(LanczosStep) {
  e[0] = e[0] - (F::mul(c[0], e[1]) + F::mul(c[1], e[2]));
  F::dot(s[0], e[0], e[0]);
}

// m = mu m - eta g - decay w;  w += m + mu (m - m_old)      w is x + mu m, where the gradient g is taken
KRYLOV_BODY(Nesterov) {
  const auto old = e[1];
  e[1] = F::mul(c[0], old) - F::mul(c[1], e[2]) - F::mul(c[2], e[0]);
  e[0] = e[0] + (e[1] + F::mul(c[0], e[1] - old));
}

// the same with - pull u in m, and u = gamma (u + the step of w);  u.u      vectors w, m, u = w - mean of w, g
KRYLOV_BODY(NesterovMean) {
  const auto old = e[1];
  e[1] = F::mul(c[0], old) - F::mul(c[1], e[3]) - F::mul(c[2], e[0]) - F::mul(c[3], e[2]);
  const auto moved = e[1] + F::mul(c[0], e[1] - old);
  e[0] = e[0] + moved;
  e[2] = F::mul(c[4], e[2] + moved);
  F::dot(s[0], e[2], e[2]);
}

#undef KRYLOV_BODY

#ifdef KRYLOV_ISA_NAMESPACE
}  // namespace KRYLOV_ISA_NAMESPACE
#endif
}  // namespace krylov
