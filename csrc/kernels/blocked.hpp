// Runs a pass of one instruction set over fixed blocks, on as many threads as pay, and adds the block sums in a fixed
// order: the result has the same bits for any number of threads.
#pragma once

#include "kernels/chunks.hpp"

namespace krylov {

void run_blocked(const ChunkTable& chunks, const PassCall& call);
void run_blocked_panel(const ChunkTable& chunks, const PanelCall& call);

// partials[b * sums + k] over blocks -> sums[k], by halving; overwrites partials.
void combine_partials(Complex* partials, int64_t blocks, int sums, Complex* out);

}  // namespace krylov
