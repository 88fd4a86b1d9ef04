// Panel passes for one instruction set, part of cpu_chunks.inl. A pass beside a panel runs on one block at a time,
// while the block is in the cache.
#pragma once

#include "kernels/panel.hpp"

namespace krylov {
namespace KRYLOV_ISA_NAMESPACE {

// Columns taken at once, so that the sums of a group fit into the registers.
template <class F>
struct Group;
template <>
struct Group<Real> {
  static constexpr int size = kWidth == 8 ? 8 : kWidth == 4 ? 2 : 1;
};
template <>
struct Group<Interleaved> {
  static constexpr int size = kWidth == 8 ? 4 : 1;
};

// Reals of a combination that stay in the first-level cache while the columns stream by; rotate() keeps its tile of every
// column that it writes.
constexpr int kTile = 2048, kRotateTile = 128;
constexpr int kGramTile = 256, kGramColumns = 16;

struct Span {
  int64_t first, length;  // in reals
};

KRYLOV_INLINE Span span_of(const PassCall& pass, int64_t block) {
  const int64_t first = block * kBlock, left = real_length(pass.n, pass.dtype) - first;
  return {first, left < kBlock ? left : kBlock};
}

// The pass on one block alone.
KRYLOV_INLINE PassCall on_block(const PassCall& pass, int64_t block, Span span) {
  PassCall part = pass;
  const int reals = is_complex(pass.dtype) ? 2 : 1;
  for (int k = 0; k < info(pass.pass).vectors; ++k)
    if (pass.vectors[k])
      part.vectors[k] =
          static_cast<char*>(pass.vectors[k]) + span.first / reals * item_size(pass.dtype);
  part.n = span.length / reals;
  part.partials = pass.partials + block * info(pass.pass).sums;
  return part;
}

template <class Q>
KRYLOV_INLINE Vec load_part(const Q* p, int64_t count) {
  Q padded[kWidth] = {};
  for (int64_t j = 0; j < count; ++j) padded[j] = p[j];
  return load(padded);
}

template <class Q>
KRYLOV_INLINE void store_part(Q* p, Vec v, int64_t count) {
  Q padded[kWidth];
  store(padded, v);
  for (int64_t j = 0; j < count; ++j) p[j] = padded[j];
}

// s += column_g . v for the columns of a group over `length` reals; lane l of a sum takes the reals l, l + kLanes, ...
template <class F, class T, class Q, int G>
KRYLOV_INLINE void add_dots(typename F::S* s, const T* v, const Q* const* column, int64_t length) {
  int64_t i = 0;
  for (; i + kLanes <= length; i += kLanes) {
#pragma GCC unroll 8
    for (int u = 0; u < kUnroll; ++u) {
      const Vec x = load(v + i + u * kWidth);
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) F::dot(s[u * G + g], load(column[g] + i + u * kWidth), x);
    }
  }
  for (int u = 0; i < length; ++u, i += kWidth) {
    const int64_t left = length - i, count = left < kWidth ? left : kWidth;
    const Vec x = load_part(v + i, count);
    for (int g = 0; g < G; ++g) F::dot(s[u * G + g], load_part(column[g] + i, count), x);
  }
}

// sums[g stride] = column_g . v over one block, with the lanes and the tree of every other sum.
template <class F, class T, class Q, int G>
KRYLOV_INLINE void group_dots(const T* v, void* const* columns, Span span, Complex* sums,
                              int stride) {
  const Q* column[G];
  for (int g = 0; g < G; ++g) column[g] = static_cast<const Q*>(columns[g]) + span.first;
  typename F::S s[kUnroll * G] = {};
  add_dots<F, T, Q, G>(s, v, column, span.length);
  for (int g = 0; g < G; ++g) sums[g * stride] = lane_total(s + g, G);
}

template <class F, class T, class Q>
KRYLOV_INLINE void all_dots(const T* v, const Panel& panel, Span span, Complex* sums, int stride) {
  constexpr int size = Group<F>::size;
  int j = 0;
  for (; j + size <= panel.count; j += size)
    group_dots<F, T, Q, size>(v, panel.columns + j, span, sums + j * stride, stride);
  for (; j < panel.count; ++j)
    group_dots<F, T, Q, 1>(v, panel.columns + j, span, sums + j * stride, stride);
}

// t += sum_g c_g column_g on `length` reals from `first`; t is padded to whole registers.
template <class F, class Q, int G>
KRYLOV_INLINE void add_group(double* t, void* const* columns, const Complex* coefs, int stride,
                             Span span) {
  const Q* column[G];
  typename F::C c[G];
  for (int g = 0; g < G; ++g) {
    column[g] = static_cast<const Q*>(columns[g]) + span.first;
    c[g] = F::coefficient(coefs[g * stride].re, coefs[g * stride].im);
  }
  int64_t i = 0;
  for (; i + kWidth <= span.length; i += kWidth) {
    Vec sum = load(t + i);
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) sum = sum + F::mul(c[g], load(column[g] + i));
    store(t + i, sum);
  }
  if (i < span.length) {
    Vec sum = load(t + i);
    for (int g = 0; g < G; ++g) sum = sum + F::mul(c[g], load_part(column[g] + i, span.length - i));
    store(t + i, sum);
  }
}

template <class F, class Q>
KRYLOV_INLINE void add_columns(double* t, const Panel& panel, const Complex* coefs, int stride,
                               Span span) {
  constexpr int size = kWidth == 8 ? Group<F>::size : 4;
  int j = 0;
  for (; j + size <= panel.count; j += size)
    add_group<F, Q, size>(t, panel.columns + j, coefs + j * stride, stride, span);
  for (; j < panel.count; ++j)
    add_group<F, Q, 1>(t, panel.columns + j, coefs + j * stride, stride, span);
}

// t = a x; zero where x is null.
template <class F, class T>
KRYLOV_INLINE void scaled(double* t, const T* x, Complex a, int64_t length) {
  const typename F::C c = F::coefficient(a.re, a.im);
  int64_t i = 0;
  if (x) {
    for (; i + kWidth <= length; i += kWidth) store(t + i, F::mul(c, load(x + i)));
    if (i < length) store(t + i, F::mul(c, load_part(x + i, length - i)));
  } else {
    for (; i < length; i += kWidth) store(t + i, broadcast(0.0, 0.0));
  }
}

template <class Q>
KRYLOV_INLINE void write(Q* target, const double* t, int64_t length) {
  int64_t i = 0;
  for (; i + kWidth <= length; i += kWidth) store(target + i, load(t + i));
  if (i < length) store_part(target + i, load(t + i), length - i);
}

extern const ChunkTable chunks;

KRYLOV_INLINE void run_on_block(const PassCall& pass, int64_t block, Span span, int slot,
                                void* value) {
  PassCall part = on_block(pass, block, span);
  if (value) part.vectors[slot] = value;
  chunks.run[static_cast<int>(pass.pass)][static_cast<int>(pass.dtype)](part, 0, 1);
}

template <class F, class T, class Q>
static void project(const PanelCall& call, int64_t first, int64_t last) {
  for (int64_t block = first; block < last; ++block) {
    const Span span = span_of(call.pass, block);
    run_on_block(call.pass, block, span, 0, nullptr);
    all_dots<F, T, Q>(static_cast<const T*>(call.pass.vectors[call.vector]) + span.first,
                      call.panel, span, call.partials + block * call.panel.count, 1);
  }
}

template <class F, class T, class Q>
static void combine(const PanelCall& call, int64_t first, int64_t last) {
  double t[kTile];
  T z[kBlock];
  for (int64_t block = first; block < last; ++block) {
    const Span span = span_of(call.pass, block);
    for (int64_t start = 0; start < span.length; start += kTile) {
      const int64_t left = span.length - start;
      const Span tile = {span.first + start, left < kTile ? left : kTile};
      const T* r = call.source ? static_cast<const T*>(call.source) + tile.first : nullptr;
      scaled<F, T>(t, r, call.coefs[0], tile.length);
      add_columns<F, Q>(t, call.panel, call.coefs + 1, 1, tile);
      write(z + start, t, tile.length);
    }
    run_on_block(call.pass, block, span, call.vector, z);
  }
}

// The products of a group of columns with up to kGramColumns others over a block, tile by tile: a tile of the group
// stays in the first-level cache while the others pass by.
template <class F, class Q, int G>
KRYLOV_INLINE void group_gram(void* const* columns, void* const* others, int count, Span span,
                              Complex* sums, int left_stride) {
  typename F::S s[kGramColumns][kUnroll * G] = {};
  for (int64_t start = 0; start < span.length; start += kGramTile) {
    const int64_t at = span.first + start, left = span.length - start;
    const Q* column[G];
    for (int g = 0; g < G; ++g) column[g] = static_cast<const Q*>(columns[g]) + at;
    for (int k = 0; k < count; ++k) {
      typename F::S t[kUnroll * G];
      for (int j = 0; j < kUnroll * G; ++j) t[j] = s[k][j];
      add_dots<F, Q, Q, G>(t, static_cast<const Q*>(others[k]) + at, column,
                           left < kGramTile ? left : kGramTile);
      for (int j = 0; j < kUnroll * G; ++j) s[k][j] = t[j];
    }
  }
  for (int k = 0; k < count; ++k)
    for (int g = 0; g < G; ++g) sums[g * left_stride + k] = lane_total(s[k] + g, G);
}

template <class F, class Q>
static void gram(const PanelCall& call, int64_t first, int64_t last) {
  constexpr int size = Group<F>::size;
  const int rows = call.panel.count, columns = call.other.count;
  for (int64_t block = first; block < last; ++block) {
    const Span span = span_of(call.pass, block);
    Complex* sums = call.partials + block * rows * columns;
    for (int k = 0; k < columns; k += kGramColumns) {
      void* const* others = call.other.columns + k;
      const int count = columns - k < kGramColumns ? columns - k : kGramColumns;
      int j = 0;
      for (; j + size <= rows; j += size)
        group_gram<F, Q, size>(call.panel.columns + j, others, count, span, sums + j * columns + k,
                               columns);
      for (; j < rows; ++j)
        group_gram<F, Q, 1>(call.panel.columns + j, others, count, span, sums + j * columns + k,
                            columns);
    }
  }
}

template <class F, class T, class Q>
static void put(const PanelCall& call, int64_t first, int64_t last) {
  double t[kTile];
  for (int64_t block = first; block < last; ++block) {
    const Span span = span_of(call.pass, block);
    for (int64_t start = 0; start < span.length; start += kTile) {
      const int64_t at = span.first + start, left = span.length - start;
      const int64_t length = left < kTile ? left : kTile;
      scaled<F, T>(t, static_cast<const T*>(call.source) + at, call.coefs[0], length);
      write(static_cast<Q*>(call.panel.columns[0]) + at, t, length);
    }
  }
}

template <class F, class Q>
static void rotate(const PanelCall& call, int64_t first, int64_t last) {
  const int columns = call.other.count;
  double t[kMaxColumns][kRotateTile];
  for (int64_t block = first; block < last; ++block) {
    const Span span = span_of(call.pass, block);
    for (int64_t start = 0; start < span.length; start += kRotateTile) {
      const int64_t left = span.length - start;
      const Span tile = {span.first + start, left < kRotateTile ? left : kRotateTile};
      for (int k = 0; k < columns; ++k) {
        scaled<F, Q>(t[k], nullptr, {}, tile.length);
        add_columns<F, Q>(t[k], call.panel, call.coefs + k, columns, tile);
      }
      for (int k = 0; k < columns; ++k)
        write(static_cast<Q*>(call.other.columns[k]) + tile.first, t[k], tile.length);
    }
  }
}

}  // namespace KRYLOV_ISA_NAMESPACE
}  // namespace krylov
