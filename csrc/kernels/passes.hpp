// The narrow waist: every operation on long vectors is one of these named passes.
//
// A pass reads some vectors, writes some, and contributes to a few sums. What it moves is in its masks, so the
// traffic of a recurrence is the sum over its passes and a test can add it up. A backend (fast CPU, naive reference,
// later CUDA and sharded vectors) is another way to run the same list.
#pragma once

#include "core/types.hpp"

namespace krylov {

constexpr int kMaxVectors = 7;
constexpr int kMaxCoefs = 5;
constexpr int kMaxSums = 4;

// X(identifier, name, vectors, loaded, stored, coefficients, sums); bit k of a mask stands for vector k.
// The arithmetic of each is in bodies.hpp; dots are conjugated on the left: a.b = sum conj(a_i) b_i.
#define KRYLOV_PASSES(X) \
  X(Copy, "copy", 2, 0b10, 0b01, 0, 0) \
  X(Axpy, "axpy", 2, 0b11, 0b01, 1, 0) \
  X(Scale, "scale", 1, 0b1, 0b1, 1, 1) \
  X(Norm, "norm", 1, 0b1, 0, 2, 3) \
  X(Dot, "dot", 2, 0b11, 0, 0, 1) \
  X(DotPair, "dot_pair", 3, 0b111, 0, 0, 2) \
  X(Residual, "residual", 3, 0b110, 0b001, 2, 3) \
  X(Direction, "direction", 3, 0b110, 0b001, 0, 3) \
  X(CgResidual, "cg_residual", 2, 0b11, 0b01, 1, 1) \
  X(CgResidualOld, "cg_residual_old", 2, 0b11, 0b01, 1, 2) \
  X(CgResidualDiag, "cg_residual_diag", 3, 0b111, 0b001, 1, 3) \
  X(CgStep, "cg_step", 3, 0b111, 0b011, 2, 3) \
  X(CgStepDiag, "cg_step_diag", 4, 0b1111, 0b0011, 2, 3) \
  X(HalfStep, "bicgstab_half", 2, 0b11, 0b01, 1, 1) \
  X(Stabilise, "bicgstab_omega", 3, 0b111, 0, 1, 4) \
  X(BiStep, "bicgstab_step", 5, 0b11111, 0b00111, 4, 1) \
  X(BiStepM, "bicgstab_step_m", 7, 0b1111111, 0b0000111, 4, 1) \
  X(Multiply, "multiply", 3, 0b110, 0b001, 0, 0) \
  X(Relax, "neumann_step", 3, 0b111, 0b011, 2, 2) \
  X(RelaxM, "neumann_step_m", 4, 0b1111, 0b0011, 2, 3) \
  X(LanczosStep, "lanczos_step", 3, 0b111, 0b001, 2, 1) \
  X(Nesterov, "nesterov_step", 3, 0b111, 0b011, 3, 0) \
  X(NesterovMean, "nesterov_step_mean", 4, 0b1111, 0b0111, 5, 1)

enum class PassId : int {
#define X(id, ...) id,
  KRYLOV_PASSES(X)
#undef X
};

struct PassInfo {
  const char* name;
  int vectors;
  unsigned loaded, stored;
  int coefs, sums;
  constexpr int reads() const { return __builtin_popcount(loaded); }
  constexpr int writes() const { return __builtin_popcount(stored); }
};

constexpr PassInfo kPasses[] = {
#define X(id, ...) {__VA_ARGS__},
    KRYLOV_PASSES(X)
#undef X
};
constexpr int kPassCount = sizeof(kPasses) / sizeof(kPasses[0]);

static constexpr const PassInfo& info(PassId id) { return kPasses[static_cast<int>(id)]; }

// One launch. Coefficients are addresses, not values: on a GPU they name scalars that the host never sees.
struct PassCall {
  PassId pass;
  Dtype dtype;
  int64_t n;
  void* vectors[kMaxVectors];
  const Complex* coefs[kMaxCoefs];
  Complex* sums;      // info(pass).sums results
  Complex* partials;  // scratch of partials_size(n, dtype) entries
};

// Sums run over blocks of this many reals with kLanes lanes each, whatever the thread count and instruction set.
constexpr int64_t kBlock = 4096;
constexpr int kLanes = 16;

static constexpr int64_t real_length(int64_t n, Dtype t) { return is_complex(t) ? 2 * n : n; }
static constexpr int64_t block_count(int64_t n, Dtype t) {
  return (real_length(n, t) + kBlock - 1) / kBlock;
}
static constexpr int64_t partials_size(int64_t n, Dtype t) { return block_count(n, t) * kMaxSums; }

}  // namespace krylov
