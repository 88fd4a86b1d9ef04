#include "solvers/recurrence.hpp"

#include <algorithm>

namespace krylov {

void Trace::reserve(int64_t iterations) {
  // Longer runs grow geometrically from here.
  const auto count = static_cast<size_t>(std::min<int64_t>(iterations, 100000) + 1);
  for (auto* history : {&residual_norms, &quadratic_values, &alphas, &betas})
    history->reserve(count);
}

Recurrence::Recurrence(int64_t n, Dtype dtype, int vectors)
    : table_(current_table()),
      n_(n),
      dtype_(dtype),
      vectors_(static_cast<size_t>(vectors), nullptr),
      partials_(static_cast<size_t>(partials_size(n, dtype))),
      sums_(kMaxSums) {}

void Recurrence::reserve_columns(int columns) {
  sums_.resize(static_cast<size_t>(kMaxSums) + static_cast<size_t>(columns));
  panel_partials_.resize(static_cast<size_t>(panel_partials_size(n_, dtype_, columns)));
}

Request Recurrence::resume() {
  demand_ = Demand{};
  for (;;) {
    if (pending_) {
      const Finish finish = pending_;
      pending_ = nullptr;
      finish(scalars(), sums_.data());
    }
    const Request request = advance();
    if (request != Request::none) return request;
    if (pending_ && partial_sums_) return ask(Request::reduce);
  }
}

PassCall Recurrence::prepare(PassId pass, std::initializer_list<int> slots,
                             std::initializer_list<const Complex*> coefs) {
  PassCall call{pass, dtype_, n_, {}, {}, sums_.data(), partials_.data()};
  int k = 0;
  for (int slot : slots)
    call.vectors[k++] = slot < 0 ? nullptr : vectors_[static_cast<size_t>(slot)];
  k = 0;
  for (const Complex* coef : coefs) call.coefs[k++] = coef;
  return call;
}

void Recurrence::launch(PassId pass, std::initializer_list<int> slots,
                        std::initializer_list<const Complex*> coefs, Finish finish) {
  table_.run(prepare(pass, slots, coefs));
  ++launches_[static_cast<int>(pass)];
  sum_count_ = info(pass).sums;
  pending_ = finish;
}

void Recurrence::run_panel(const PanelCall& call, Finish finish) {
  table_.run_panel(call);
  ++launches_[static_cast<int>(call.pass.pass)];
  panel_columns_ += call.panel.count;
  sum_count_ = info(call.pass.pass).sums + panel_sums(call);
  pending_ = finish;
}

void Recurrence::launch_project(const Panel& panel, int vector, PassId pass,
                                std::initializer_list<int> slots,
                                std::initializer_list<const Complex*> coefs, Finish finish) {
  run_panel({PanelOp::project,
             prepare(pass, slots, coefs),
             panel,
             {},
             vector,
             nullptr,
             nullptr,
             sums_.data() + info(pass).sums,
             panel_partials_.data()},
            finish);
}

void Recurrence::launch_combine(const Panel& panel, int vector, int r, const Complex* weights,
                                PassId pass, std::initializer_list<int> slots,
                                std::initializer_list<const Complex*> coefs, Finish finish) {
  run_panel({PanelOp::combine,
             prepare(pass, slots, coefs),
             panel,
             {},
             vector,
             r < 0 ? nullptr : vectors_[static_cast<size_t>(r)],
             weights,
             nullptr,
             nullptr},
            finish);
}

void Recurrence::supply_dot(Complex value) {
  sums_[0] = value;
  dot_supplied_ = true;
}

bool Recurrence::take_supplied_dot(Finish finish) {
  if (!dot_supplied_) return false;
  dot_supplied_ = false;
  sum_count_ = 1;
  pending_ = finish;
  return true;
}

Request Recurrence::ask(Request request, int source, int target, int weight) {
  demand_ = {request, source, target, weight};
  dot_supplied_ = false;
  return request;
}

Request Recurrence::end(Status status) {
  status_ = status;
  return ask(Request::done);
}

}  // namespace krylov
