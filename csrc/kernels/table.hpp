// A table is one way to run the passes. Recurrences know nothing else about vectors.
#pragma once

#include "kernels/panel.hpp"

namespace krylov {

struct Table {
  const char* name;
  void (*run)(const PassCall& call);
  void (*run_panel)(const PanelCall& call);
};

// "reference" and, fastest last, the instruction sets that were built and that this processor has.
constexpr int kMaxTables = 4;
struct TableList {
  Table entries[kMaxTables];
  int count;
};
const TableList& usable_tables();

// The table in use: the fastest, unless the environment variable KRYLOV_ISA or use_table() names another.
const Table& current_table();

// Null where no usable table has that name; "auto" is the fastest.
const Table* find_table(const char* name);
void use_table(const Table& table);

// Serial naive loops, the truth that every other table is tested against.
void run_reference(const PassCall& call);
void run_reference_panel(const PanelCall& call);

}  // namespace krylov
