// What an instruction set offers: each pass over a range of blocks, for each dtype, and each panel pass, for each
// storage of the panel too.
#pragma once

#include "kernels/panel.hpp"

namespace krylov {

// Runs blocks [first, last) of the pass serially and writes their sums to call.partials[block * sums + k].
using ChunkFn = void (*)(const PassCall& call, int64_t first, int64_t last);
using PanelChunkFn = void (*)(const PanelCall& call, int64_t first, int64_t last);

struct ChunkTable {
  ChunkFn run[kPassCount][kDtypes];
  PanelChunkFn run_panel[kPanelOps][kDtypes][kStorages];
};

namespace baseline {
extern const ChunkTable chunks;
}
namespace avx2 {
extern const ChunkTable chunks;
}
namespace avx512 {
extern const ChunkTable chunks;
}

}  // namespace krylov
