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

}  // namespace krylov
