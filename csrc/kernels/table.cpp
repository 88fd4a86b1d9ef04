#include "kernels/table.hpp"

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "kernels/blocked.hpp"
#include "kernels/chunks.hpp"

namespace krylov {
namespace {

template <const ChunkTable& chunks>
void run_cpu(const PassCall& call) {
  run_blocked(chunks, call);
}
template <const ChunkTable& chunks>
void run_cpu_panel(const PanelCall& call) {
  run_blocked_panel(chunks, call);
}

TableList detect() {
  TableList list{};
  const auto add = [&list](Table table) { list.entries[list.count++] = table; };
  add({"reference", run_reference, run_reference_panel});
  add({"baseline", run_cpu<baseline::chunks>, run_cpu_panel<baseline::chunks>});
#if defined(KRYLOV_HAVE_AVX2)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    add({"avx2", run_cpu<avx2::chunks>, run_cpu_panel<avx2::chunks>});
#endif
#if defined(KRYLOV_HAVE_AVX512)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    add({"avx512", run_cpu<avx512::chunks>, run_cpu_panel<avx512::chunks>});
#endif
  return list;
}

const Table* initial_table() {
  const char* name = std::getenv("KRYLOV_ISA");
  const Table* named = name ? find_table(name) : nullptr;
  return named ? named : find_table("auto");
}

std::atomic<const Table*>& current() {
  static std::atomic<const Table*> table{initial_table()};
  return table;
}

}  // namespace

const TableList& usable_tables() {
  static const TableList list = detect();
  return list;
}

const Table& current_table() { return *current().load(std::memory_order_acquire); }

const Table* find_table(const char* name) {
  const TableList& list = usable_tables();
  if (std::strcmp(name, "auto") == 0) return &list.entries[list.count - 1];
  for (int i = 0; i < list.count; ++i)
    if (std::strcmp(name, list.entries[i].name) == 0) return &list.entries[i];
  return nullptr;
}

void use_table(const Table& table) { current().store(&table, std::memory_order_release); }

}  // namespace krylov
