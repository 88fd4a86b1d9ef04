# One translation unit per instruction set; a table in the library chooses among them at run time by cpuid.
# Sets KRYLOV_ISA_SOURCES, KRYLOV_ISA_DEFINITIONS and KRYLOV_ISAS. tests/test_codebase.py reads the flags from here.

include(CheckCXXCompilerFlag)

# Nothing there throws; without exceptions no file refers to a personality routine, a symbol that files share.
set(KRYLOV_FLAGS_AVX2 -mavx2 -mfma -mf16c -fno-exceptions)
set(KRYLOV_FLAGS_AVX512
    -mavx512f -mavx512dq -mavx512vl -mavx512bw -mfma -mprefer-vector-width=512
    -fno-exceptions)

set(KRYLOV_ISAS baseline)
set(KRYLOV_ISA_SOURCES csrc/kernels/isa_baseline.cpp)
set(KRYLOV_ISA_DEFINITIONS)

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$" AND CMAKE_SIZEOF_VOID_P EQUAL 8)
  foreach(isa IN ITEMS AVX2 AVX512)
    string(REPLACE ";" " " flags "${KRYLOV_FLAGS_${isa}}")
    check_cxx_compiler_flag("${flags}" KRYLOV_COMPILER_KNOWS_${isa})
    if(KRYLOV_COMPILER_KNOWS_${isa})
      string(TOLOWER ${isa} name)
      set(source csrc/kernels/isa_${name}.cpp)
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${KRYLOV_FLAGS_${isa}}")
      list(APPEND KRYLOV_ISAS ${name})
      list(APPEND KRYLOV_ISA_SOURCES ${source})
      list(APPEND KRYLOV_ISA_DEFINITIONS KRYLOV_HAVE_${isa}=1)
    endif()
  endforeach()
endif()
