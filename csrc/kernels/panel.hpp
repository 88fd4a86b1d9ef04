// Passes over a panel: k long vectors side by side, the columns of an n by k matrix B with small k, which may be kept in
// fewer digits than the vectors they meet.
//
//   project   an ordinary pass, and c = B^H v for one of its vectors, as the pass leaves it
//   combine   z = gamma r + B d, and an ordinary pass that reads z block by block: z itself is never in memory
//   gram      G = B^H C for two panels of one storage
//   put       b_1 = a x: a vector becomes a column
//   rotate    C = B U, block by block, so that columns of C may be columns of B
//
// Each reads a column once. Reduced storage rounds to nearest; arithmetic and sums are float64 as in every pass.
#pragma once

#include "kernels/passes.hpp"

namespace krylov {

enum class PanelOp : int { project, combine, gram, put, rotate };
constexpr int kPanelOps = 5;

// Of each real number of a column.
enum class Storage : int { float64, float32, bfloat16 };
constexpr int kStorages = 3;

static constexpr int real_size(Storage s) {
  return s == Storage::float64 ? 8 : s == Storage::float32 ? 4 : 2;
}

// float32 vectors have no float64 panels.
static constexpr bool storage_fits(Storage s, Dtype t) {
  return !(s == Storage::float64 && is_single(t));
}

// Columns of a panel at most.
constexpr int kMaxColumns = 512;

struct Panel {
  Storage storage = Storage::float64;
  int count = 0;
  void* const* columns = nullptr;
};

struct PanelCall {
  PanelOp op;
  PassCall pass;  // project, combine: what runs beside; gram, put, rotate: only dtype and n
  Panel panel;
  Panel other;           // gram: C; rotate: C
  int vector;            // project: which vector of the pass; combine: which one is z
  const void* source;    // combine: r, null for B d alone; put: x
  const Complex* coefs;  // combine: gamma, d_1 .. d_k; put: a; rotate: U by rows
  Complex* sums;         // project: c_1 .. c_k; gram: G by rows
  Complex* partials;     // scratch of panel_partials_size entries
};

static constexpr int panel_sums(const PanelCall& call) {
  return call.op == PanelOp::project ? call.panel.count
         : call.op == PanelOp::gram  ? call.panel.count * call.other.count
                                     : 0;
}

static constexpr int64_t panel_partials_size(int64_t n, Dtype t, int sums) {
  return block_count(n, t) * sums;
}

}  // namespace krylov
