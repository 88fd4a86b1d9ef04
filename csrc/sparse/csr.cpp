#include "sparse/csr.hpp"

#include "kernels/blocked.hpp"
#include "kernels/parallel.hpp"

namespace krylov {
namespace {

// Rows whose part of w.y is one partial sum.
constexpr int64_t kRowBlock = 1024;
// Below this many entries (some 100 microseconds) one thread is enough; see blocked.cpp.
constexpr int64_t kSerialEntries = 128 * 1024;
// Entries and columns are fetched this far ahead: with three streams side by side the hardware looks too near. A
// prefetch beyond the end is harmless.
constexpr int64_t kAhead = 256;

template <class T, class Index>
double row_sum(const T* entry, const Index* column, const T* x, int64_t k, int64_t end) {
  double sum = 0.0, other = 0.0;
  for (; k + 4 <= end; k += 4) {  // two chains hide the latency of the additions
    sum += double(entry[k]) * x[column[k]] + double(entry[k + 1]) * x[column[k + 1]];
    other += double(entry[k + 2]) * x[column[k + 2]] + double(entry[k + 3]) * x[column[k + 3]];
  }
  for (; k < end; ++k) sum += double(entry[k]) * x[column[k]];
  return sum + other;
}

template <class T, class Index>
void real_rows(const Csr& a, const void* x_data, void* y_data, const void* w_data,
               Complex* partials, int64_t first, int64_t last) {
  const auto* start = static_cast<const Index*>(a.row_start);
  const auto* column = static_cast<const Index*>(a.column);
  const auto* entry = static_cast<const T*>(a.entry);
  const auto* x = static_cast<const T*>(x_data);
  const auto* w = static_cast<const T*>(w_data);
  auto* y = static_cast<T*>(y_data);
  for (int64_t block = first; block < last; ++block) {
    const int64_t end =
        block * kRowBlock + kRowBlock < a.rows ? block * kRowBlock + kRowBlock : a.rows;
    double dot = 0.0;
    int64_t k = start[block * kRowBlock];
    for (int64_t i = block * kRowBlock; i < end; ++i) {
      const int64_t next = start[i + 1];
      __builtin_prefetch(entry + k + kAhead);
      __builtin_prefetch(column + k + 2 * kAhead);
      const double value = row_sum(entry, column, x, k, next);
      k = next;
      y[i] = static_cast<T>(value);
      if (w) dot += w[i] * value;
    }
    if (w) partials[block] = {dot, 0.0};
  }
}

template <class T, class Index>
void complex_rows(const Csr& a, const void* x_data, void* y_data, const void* w_data,
                  Complex* partials, int64_t first, int64_t last) {
  const auto* start = static_cast<const Index*>(a.row_start);
  const auto* column = static_cast<const Index*>(a.column);
  const auto* entry = static_cast<const T*>(a.entry);  // interleaved (re, im)
  const auto* x = static_cast<const T*>(x_data);
  const auto* w = static_cast<const T*>(w_data);
  auto* y = static_cast<T*>(y_data);
  for (int64_t block = first; block < last; ++block) {
    const int64_t end =
        block * kRowBlock + kRowBlock < a.rows ? block * kRowBlock + kRowBlock : a.rows;
    Complex dot;
    for (int64_t i = block * kRowBlock; i < end; ++i) {
      __builtin_prefetch(entry + 2 * (start[i] + kAhead));
      __builtin_prefetch(column + start[i] + 2 * kAhead);
      Complex sum;
      for (int64_t k = start[i]; k < start[i + 1]; ++k) {
        const T* z = x + 2 * column[k];
        sum = sum + Complex{entry[2 * k], entry[2 * k + 1]} * Complex{z[0], z[1]};
      }
      y[2 * i] = static_cast<T>(sum.re);
      y[2 * i + 1] = static_cast<T>(sum.im);
      if (w) dot = dot + Complex{w[2 * i], -w[2 * i + 1]} * sum;
    }
    if (w) partials[block] = dot;
  }
}

using RowsFn = void (*)(const Csr&, const void*, void*, const void*, Complex*, int64_t, int64_t);

template <class Index>
RowsFn rows_for(Dtype dtype) {
  switch (dtype) {
    case Dtype::float32:
      return real_rows<float, Index>;
    case Dtype::float64:
      return real_rows<double, Index>;
    case Dtype::complex64:
      return complex_rows<float, Index>;
    default:
      return complex_rows<double, Index>;
  }
}

int64_t entries_before(const Csr& a, int64_t row) {
  return a.wide ? static_cast<const int64_t*>(a.row_start)[row]
                : static_cast<const int32_t*>(a.row_start)[row];
}

}  // namespace

int64_t csr_partials_size(int64_t rows) { return (rows + kRowBlock - 1) / kRowBlock; }

void csr_multiply(const Csr& a, const void* x, void* y, const void* weight, Complex* dot,
                  Complex* partials) {
  const RowsFn rows = a.wide ? rows_for<int64_t>(a.dtype) : rows_for<int32_t>(a.dtype);
  const int64_t blocks = csr_partials_size(a.rows);
  const bool parallel = entries_before(a, a.rows) + a.rows > kSerialEntries;
  for_ranges(blocks, parallel,
             [&](int64_t first, int64_t last) { rows(a, x, y, weight, partials, first, last); });
  if (weight) combine_partials(partials, blocks, 1, dot);
}

}  // namespace krylov
