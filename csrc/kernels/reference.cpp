// The naive table: one element after another, plain complex arithmetic, sums in long double. It shares no code with
// the fast tables beyond the list of passes, so that an error in one shows against the other.
#include <complex>

#include "kernels/table.hpp"

namespace krylov {
namespace {

using Scalar = std::complex<double>;
using Total = std::complex<long double>;

struct Element {
  Scalar e[kMaxVectors];
  const Scalar* c;
  Total* s;
  void dot(int k, Scalar a, Scalar b) { s[k] += Total(std::conj(a)) * Total(b); }
};

void compute(PassId pass, Element& el) {
  Scalar* e = el.e;
  const Scalar* c = el.c;
  switch (pass) {
    case PassId::Copy:
      e[0] = e[1];
      break;
    case PassId::Axpy:
      e[0] += c[0] * e[1];
      break;
    case PassId::Scale:
      e[0] *= c[0];
      el.dot(0, e[0], e[0]);
      break;
    case PassId::Residual:
      e[0] = e[1] - e[2];
      [[fallthrough]];
    case PassId::Norm:
      el.dot(0, e[0], e[0]);
      el.dot(1, c[0] * e[0], c[0] * e[0]);
      el.dot(2, c[1] * e[0], c[1] * e[0]);
      break;
    case PassId::Dot:
      el.dot(0, e[0], e[1]);
      break;
    case PassId::DotPair:
      el.dot(0, e[0], e[2]);
      el.dot(1, e[1], e[2]);
      break;
    case PassId::Direction:
      e[0] = e[1];
      el.dot(0, e[0], e[0]);
      el.dot(1, e[2], e[0]);
      el.dot(2, e[2], e[2]);
      break;
    case PassId::HalfStep:
    case PassId::CgResidual:
      e[0] -= c[0] * e[1];
      el.dot(0, e[0], e[0]);
      break;
    case PassId::CgResidualOld: {
      const Scalar old = e[0];
      e[0] -= c[0] * e[1];
      el.dot(0, e[0], e[0]);
      el.dot(1, old, e[0]);
      break;
    }
    case PassId::CgResidualDiag:
      e[0] -= c[0] * e[1];
      el.dot(0, e[0], e[0]);
      el.dot(1, e[0], e[2] * e[0]);
      el.dot(2, e[1], e[2] * e[0]);
      break;
    case PassId::CgStep:
    case PassId::CgStepDiag:
      e[0] += c[0] * e[1];
      e[1] = (pass == PassId::CgStep ? e[2] : e[3] * e[2]) + c[1] * e[1];
      el.dot(0, e[1], e[1]);
      el.dot(1, e[0], e[1]);
      el.dot(2, e[0], e[0]);
      break;
    case PassId::Stabilise: {
      const Scalar t = c[0] * e[0];
      el.dot(0, t, e[1]);
      el.dot(1, t, t);
      el.dot(2, e[2], t);
      el.dot(3, e[2], e[1]);
      break;
    }
    case PassId::BiStep:
    case PassId::BiStepM: {
      const bool m = pass == PassId::BiStepM;
      e[0] += c[0] * (m ? e[5] : e[2]) + c[1] * (m ? e[6] : e[1]);
      e[1] -= c[2] * e[3];
      e[2] = e[1] + c[3] * (e[2] - c[2] * e[4]);
      el.dot(0, e[1], e[1]);
      break;
    }
    case PassId::Multiply:
      e[0] = e[1] * e[2];
      break;
    case PassId::Relax:
      e[0] += c[0] * e[1];
      el.dot(1, e[1], e[2]);
      e[1] -= c[1] * e[2];
      el.dot(0, e[1], e[1]);
      break;
    case PassId::RelaxM:
      e[0] += c[0] * e[3];
      el.dot(1, e[3], e[2]);
      el.dot(2, e[1], e[3]);
      e[1] -= c[1] * e[2];
      el.dot(0, e[1], e[1]);
      break;
    case PassId::LanczosStep:
      e[0] -= c[0] * e[1] + c[1] * e[2];
      el.dot(0, e[0], e[0]);
      break;
    case PassId::Nesterov:
    case PassId::NesterovMean: {
      const bool mean = pass == PassId::NesterovMean;
      const Scalar old = e[1];
      e[1] = c[0] * old - c[1] * e[mean ? 3 : 2] - c[2] * e[0];
      if (mean) e[1] -= c[3] * e[2];
      const Scalar moved = (1.0 + c[0]) * e[1] - c[0] * old;
      e[0] += moved;
      if (!mean) break;
      e[2] = c[4] * (e[2] + moved);
      el.dot(0, e[2], e[2]);
      break;
    }
  }
}

Scalar get(const void* vector, Dtype dtype, int64_t i) {
  switch (dtype) {
    case Dtype::float32:
      return static_cast<const float*>(vector)[i];
    case Dtype::float64:
      return static_cast<const double*>(vector)[i];
    case Dtype::complex64:
      return Scalar(static_cast<const std::complex<float>*>(vector)[i]);
    case Dtype::complex128:
      return static_cast<const std::complex<double>*>(vector)[i];
  }
  return {};
}

void put(void* vector, Dtype dtype, int64_t i, Scalar value) {
  switch (dtype) {
    case Dtype::float32:
      static_cast<float*>(vector)[i] = static_cast<float>(value.real());
      break;
    case Dtype::float64:
      static_cast<double*>(vector)[i] = value.real();
      break;
    case Dtype::complex64:
      static_cast<std::complex<float>*>(vector)[i] = std::complex<float>(value);
      break;
    case Dtype::complex128:
      static_cast<std::complex<double>*>(vector)[i] = value;
      break;
  }
}

}  // namespace

void run_reference(const PassCall& call) {
  const PassInfo& pass = info(call.pass);
  Scalar coefs[kMaxCoefs];
  for (int k = 0; k < pass.coefs; ++k) {
    // A real run takes the real part, as the fast tables do.
    coefs[k] = Scalar(call.coefs[k]->re, is_complex(call.dtype) ? call.coefs[k]->im : 0.0);
  }
  Total sums[kMaxSums] = {};
  for (int64_t i = 0; i < call.n; ++i) {
    Element element{{}, coefs, sums};
    for (int k = 0; k < pass.vectors; ++k)
      if (pass.loaded >> k & 1u) element.e[k] = get(call.vectors[k], call.dtype, i);
    compute(call.pass, element);
    for (int k = 0; k < pass.vectors; ++k)
      if (pass.stored >> k & 1u) put(call.vectors[k], call.dtype, i, element.e[k]);
  }
  for (int k = 0; k < pass.sums; ++k)
    call.sums[k] = {static_cast<double>(sums[k].real()), static_cast<double>(sums[k].imag())};
}

}  // namespace krylov
