#define KRYLOV_ISA_NAMESPACE avx512
#define KRYLOV_VECTOR_BYTES 64
#include "kernels/cpu_chunks.inl"
