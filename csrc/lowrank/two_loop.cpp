#include "lowrank/two_loop.hpp"

#include <stddef.h>

#include <vector>

namespace krylov {
namespace {

// Dots and updates of one vector with one or two columns.
class Sweeper {
 public:
  Sweeper(const Table& table, Dtype dtype, int64_t n, Storage storage)
      : table_(table),
        dtype_(dtype),
        n_(n),
        storage_(storage),
        partials_(static_cast<size_t>(partials_size(n, dtype))),
        panel_partials_(static_cast<size_t>(panel_partials_size(n, dtype, 2))) {}

  // column.v, and in second_dot() other.v where there is another one
  Complex dot(void* v, void* column, void* other) {
    void* columns[2] = {column, other};
    table_.run_panel({PanelOp::project,
                      {PassId::Dot, dtype_, n_, {v, v}, {}, sums_, partials_.data()},
                      {storage_, other ? 2 : 1, columns},
                      {},
                      0,
                      nullptr,
                      nullptr,
                      dots_,
                      panel_partials_.data()});
    return dots_[0];
  }
  Complex second_dot() const { return dots_[1]; }

  // v = a v + b column + c other
  void update(void* v, Complex a, void* column, Complex b, void* other, Complex c) {
    void* columns[2] = {column, other};
    const Complex weights[3] = {a, b, c};
    table_.run_panel({PanelOp::combine,
                      {PassId::Copy, dtype_, n_, {v, nullptr}, {}, nullptr, nullptr},
                      {storage_, (column != nullptr) + (other != nullptr), columns},
                      {},
                      1,
                      v,
                      weights,
                      nullptr,
                      nullptr});
  }

 private:
  const Table& table_;
  Dtype dtype_;
  int64_t n_;
  Storage storage_;
  std::vector<Complex> partials_, panel_partials_;
  Complex sums_[kMaxSums], dots_[2];
};

}  // namespace

void two_loop(const Table& table, Dtype dtype, int64_t n, const PairsView& pairs, double gamma,
              const void* r, void* z) {
  Sweeper sweep(table, dtype, n, pairs.storage);
  const PassCall copy{PassId::Copy, dtype, n, {z, const_cast<void*>(r)}, {}, nullptr, nullptr};
  table.run(copy);
  const Complex one{1.0, 0.0};
  std::vector<Complex> alpha(static_cast<size_t>(pairs.count));
  for (int i = pairs.count - 1; i >= 0; --i) {
    void* moved = pairs.moved[i] != 0.0 ? pairs.s[i] : nullptr;
    const Complex a = (1.0 / pairs.sy[i]) * sweep.dot(z, pairs.s[i], nullptr);
    alpha[static_cast<size_t>(i)] = a;
    sweep.update(z, one, pairs.y[i], -a, moved, -pairs.moved[i] * a);
  }
  sweep.update(z, {gamma, 0.0}, nullptr, {}, nullptr, {});
  for (int i = 0; i < pairs.count; ++i) {
    void* moved = pairs.moved[i] != 0.0 ? pairs.s[i] : nullptr;
    Complex yz = sweep.dot(z, pairs.y[i], moved);
    if (moved) yz = yz + pairs.moved[i] * sweep.second_dot();
    const Complex b = (1.0 / pairs.sy[i]) * yz;
    sweep.update(z, one, pairs.s[i], alpha[static_cast<size_t>(i)] - b, nullptr, {});
  }
}

}  // namespace krylov
