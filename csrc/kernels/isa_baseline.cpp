#define KRYLOV_ISA_NAMESPACE baseline
#define KRYLOV_VECTOR_BYTES 16
#include "kernels/cpu_chunks.inl"
