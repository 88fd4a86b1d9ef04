#include "kernels/blocked.hpp"

#include "kernels/parallel.hpp"

namespace krylov {
namespace {

// Below this much traffic (some 20 microseconds) a second thread gains little, and where other programs keep the
// processors busy waiting for it costs milliseconds.
constexpr int64_t kSerialBytes = 1024 * 1024;

}  // namespace

void combine_partials(Complex* partials, int64_t blocks, int sums, Complex* out) {
  for (int64_t count = blocks; count > 1; count = (count + 1) / 2) {
    const int64_t half = (count + 1) / 2;
    for (int64_t i = 0; i < (count - half) * sums; ++i)
      partials[i] = partials[i] + partials[i + half * sums];
  }
  for (int k = 0; k < sums; ++k) out[k] = blocks > 0 ? partials[k] : Complex{};
}

void run_blocked(const ChunkTable& chunks, const PassCall& call) {
  const PassInfo& pass = info(call.pass);
  const ChunkFn run = chunks.run[static_cast<int>(call.pass)][static_cast<int>(call.dtype)];
  const int64_t blocks = block_count(call.n, call.dtype);
  const int64_t bytes = call.n * item_size(call.dtype) * (pass.reads() + pass.writes());
  for_ranges(blocks, bytes > kSerialBytes,
             [&](int64_t first, int64_t last) { run(call, first, last); });
  if (pass.sums > 0) combine_partials(call.partials, blocks, pass.sums, call.sums);
}

void run_blocked_panel(const ChunkTable& chunks, const PanelCall& call) {
  const PassCall& pass = call.pass;
  const PanelChunkFn run = chunks.run_panel[static_cast<int>(call.op)][static_cast<int>(pass.dtype)]
                                           [static_cast<int>(call.panel.storage)];
  const int64_t blocks = block_count(pass.n, pass.dtype);
  const int64_t bytes = real_length(pass.n, pass.dtype) * real_size(call.panel.storage) *
                        (call.panel.count + call.other.count + 2);
  for_ranges(blocks, bytes > kSerialBytes,
             [&](int64_t first, int64_t last) { run(call, first, last); });
  const bool beside = call.op == PanelOp::project || call.op == PanelOp::combine;
  if (beside && info(pass.pass).sums > 0)
    combine_partials(pass.partials, blocks, info(pass.pass).sums, pass.sums);
  if (const int sums = panel_sums(call)) combine_partials(call.partials, blocks, sums, call.sums);
}

}  // namespace krylov
