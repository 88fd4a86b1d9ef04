#define KRYLOV_ISA_NAMESPACE avx2
#define KRYLOV_VECTOR_BYTES 32
#include "kernels/cpu_chunks.inl"
