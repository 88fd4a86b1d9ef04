// Panels and low-rank preconditioners as Python holds them: the memory of the columns belongs to NumPy arrays, which are
// kept alive.
#pragma once

#include <memory>
#include <vector>

#include "lowrank/low_rank.hpp"
#include "python/arrays.hpp"

namespace krylov {

class PanelMemory {
 public:
  // Columns as contiguous writable arrays of n elements, each real number of them in `storage`.
  PanelMemory(int64_t n, Dtype dtype, Storage storage, std::vector<py::array> columns);

  int64_t size() const { return n_; }
  Dtype dtype() const { return dtype_; }
  Storage storage() const { return storage_; }
  int count() const { return static_cast<int>(columns_.size()); }
  std::vector<void*> select(const std::vector<int>& which) const;

 private:
  int64_t n_;
  Dtype dtype_;
  Storage storage_;
  std::vector<py::array> arrays_;
  std::vector<void*> columns_;
};

class LowRankMemory {
 public:
  LowRankMemory(std::shared_ptr<PanelMemory> memory, int capacity)
      : memory_(std::move(memory)),
        m_(memory_->size(), memory_->dtype(), memory_->storage(), capacity) {}
  const LowRank& view() const { return m_; }
  LowRank& view() { return m_; }
  const PanelMemory& memory() const { return *memory_; }

 private:
  std::shared_ptr<PanelMemory> memory_;
  LowRank m_;
};

void bind_panel(py::module_& m);

}  // namespace krylov
