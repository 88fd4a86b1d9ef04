// The naive panel passes: column after column, element after element, in long double.
#include <complex>
#include <cstring>
#include <vector>

#include "kernels/table.hpp"

namespace krylov {
namespace {

using Scalar = std::complex<double>;
using Total = std::complex<long double>;

float widen(uint16_t bits) {
  const uint32_t word = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

uint16_t narrow(float value) {
  uint32_t word;
  std::memcpy(&word, &value, sizeof word);
  const uint32_t rest = word & 0xffffu, upper = word >> 16;
  const bool number = value == value;
  const bool up = number && (rest > 0x8000u || (rest == 0x8000u && (upper & 1u)));
  return static_cast<uint16_t>(upper + up);
}

double get_real(const void* data, Storage storage, int64_t i) {
  switch (storage) {
    case Storage::float64:
      return static_cast<const double*>(data)[i];
    case Storage::float32:
      return static_cast<const float*>(data)[i];
    case Storage::bfloat16:
      return widen(static_cast<const uint16_t*>(data)[i]);
  }
  return 0.0;
}

void put_real(void* data, Storage storage, int64_t i, double value) {
  switch (storage) {
    case Storage::float64:
      static_cast<double*>(data)[i] = value;
      break;
    case Storage::float32:
      static_cast<float*>(data)[i] = static_cast<float>(value);
      break;
    case Storage::bfloat16:
      static_cast<uint16_t*>(data)[i] = narrow(static_cast<float>(value));
      break;
  }
}

Scalar get(const void* data, Storage storage, bool complex, int64_t i) {
  if (!complex) return get_real(data, storage, i);
  return {get_real(data, storage, 2 * i), get_real(data, storage, 2 * i + 1)};
}

void put(void* data, Storage storage, bool complex, int64_t i, Scalar value) {
  if (!complex) return put_real(data, storage, i, value.real());
  put_real(data, storage, 2 * i, value.real());
  put_real(data, storage, 2 * i + 1, value.imag());
}

Scalar scalar(Complex c, bool complex) { return {c.re, complex ? c.im : 0.0}; }
Complex plain(Total c) { return {static_cast<double>(c.real()), static_cast<double>(c.imag())}; }

struct Naive {
  const PanelCall& call;
  bool complex = is_complex(call.pass.dtype);
  int64_t n = call.pass.n;
  Storage of_vectors = is_single(call.pass.dtype) ? Storage::float32 : Storage::float64;

  Scalar entry(const Panel& panel, int column, int64_t i) const {
    return get(panel.columns[column], panel.storage, complex, i);
  }

  void project() const {
    run_reference(call.pass);
    for (int k = 0; k < call.panel.count; ++k) {
      Total sum = 0;
      for (int64_t i = 0; i < n; ++i)
        sum += Total(std::conj(entry(call.panel, k, i))) *
               Total(get(call.pass.vectors[call.vector], of_vectors, complex, i));
      call.sums[k] = plain(sum);
    }
  }

  void combine() const {
    std::vector<char> memory(static_cast<size_t>(n * item_size(call.pass.dtype)));
    for (int64_t i = 0; i < n; ++i) {
      Scalar z = call.source
                     ? scalar(call.coefs[0], complex) * get(call.source, of_vectors, complex, i)
                     : Scalar(0);
      for (int k = 0; k < call.panel.count; ++k)
        z += scalar(call.coefs[k + 1], complex) * entry(call.panel, k, i);
      put(memory.data(), of_vectors, complex, i, z);
    }
    PassCall pass = call.pass;
    pass.vectors[call.vector] = memory.data();
    run_reference(pass);
  }

  void gram() const {
    for (int k = 0; k < call.panel.count; ++k)
      for (int l = 0; l < call.other.count; ++l) {
        Total sum = 0;
        for (int64_t i = 0; i < n; ++i)
          sum += Total(std::conj(entry(call.panel, k, i))) * Total(entry(call.other, l, i));
        call.sums[k * call.other.count + l] = plain(sum);
      }
  }

  void put_column() const {
    for (int64_t i = 0; i < n; ++i)
      put(call.panel.columns[0], call.panel.storage, complex, i,
          scalar(call.coefs[0], complex) * get(call.source, of_vectors, complex, i));
  }

  void rotate() const {
    std::vector<Scalar> row(static_cast<size_t>(call.other.count));
    for (int64_t i = 0; i < n; ++i) {
      for (int l = 0; l < call.other.count; ++l) {
        Scalar& value = row[static_cast<size_t>(l)] = 0;
        for (int k = 0; k < call.panel.count; ++k)
          value += scalar(call.coefs[k * call.other.count + l], complex) * entry(call.panel, k, i);
      }
      for (int l = 0; l < call.other.count; ++l)
        put(call.other.columns[l], call.other.storage, complex, i, row[static_cast<size_t>(l)]);
    }
  }
};

}  // namespace

void run_reference_panel(const PanelCall& call) {
  const Naive naive{call};
  switch (call.op) {
    case PanelOp::project:
      return naive.project();
    case PanelOp::combine:
      return naive.combine();
    case PanelOp::gram:
      return naive.gram();
    case PanelOp::put:
      return naive.put_column();
    case PanelOp::rotate:
      return naive.rotate();
  }
}

}  // namespace krylov
