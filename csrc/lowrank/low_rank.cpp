#include "lowrank/low_rank.hpp"

namespace krylov {

void LowRank::set(std::vector<void*> columns, double gamma, std::vector<Complex> k) {
  columns_ = std::move(columns);
  gamma_ = gamma;
  k_ = std::move(k);
  ++version_;
}

Complex LowRank::weigh(const Complex* c, Complex* weights) const {
  const size_t k = columns_.size();
  weights[0] = {gamma_, 0.0};
  Complex product;
  for (size_t i = 0; i < k; ++i) {
    Complex d;
    for (size_t j = 0; j < k; ++j) d = d + k_[i * k + j] * c[j];
    weights[i + 1] = d;
    product = product + conj(c[i]) * d;
  }
  return product;
}

void LowRank::apply(const Table& table, const void* r, void* z) const {
  const auto k = static_cast<size_t>(count());
  std::vector<Complex> c(k), weights(k + 1), sums(1),
      partials(static_cast<size_t>(partials_size(n_, dtype_))),
      panel_partials(static_cast<size_t>(panel_partials_size(n_, dtype_, count())));
  void* residual = const_cast<void*>(r);  // a pass that only reads
  PassCall dot{PassId::Dot, dtype_, n_, {residual, residual}, {}, sums.data(), partials.data()};
  table.run_panel(
      {PanelOp::project, dot, panel(), {}, 0, nullptr, nullptr, c.data(), panel_partials.data()});
  weigh(c.data(), weights.data());
  PassCall copy{PassId::Copy, dtype_, n_, {z, nullptr}, {}, nullptr, nullptr};
  table.run_panel({PanelOp::combine, copy, panel(), {}, 1, r, weights.data(), nullptr, nullptr});
}

}  // namespace krylov
