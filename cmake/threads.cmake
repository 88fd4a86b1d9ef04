# krylov_threads: what the kernels' parallel loops are built on.
#
# OpenMP is found, never bundled: the module then refers to the plain libgomp.so.1, so one thread pool is shared with
# every other library in the process and the usual controls (OMP_NUM_THREADS, threadpoolctl) govern it.

# Even serial kernels register a handler for fork, which older C libraries keep in libpthread.
set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)
add_library(krylov_threads INTERFACE)
target_link_libraries(krylov_threads INTERFACE Threads::Threads)

if(KRYLOV_THREADS STREQUAL "openmp")
  find_package(OpenMP COMPONENTS CXX)
  if(OpenMP_CXX_FOUND)
    target_link_libraries(krylov_threads INTERFACE OpenMP::OpenMP_CXX)
  else()
    message(WARNING "OpenMP was not found: krylov will run on one thread.")
    set(KRYLOV_THREADS "serial")
  endif()
elseif(NOT KRYLOV_THREADS MATCHES "^(std|serial)$")
  message(FATAL_ERROR "KRYLOV_THREADS is '${KRYLOV_THREADS}'; it must be openmp, std or serial.")
endif()

string(TOUPPER "${KRYLOV_THREADS}" threads_upper)
target_compile_definitions(krylov_threads INTERFACE KRYLOV_THREADS_${threads_upper}=1)
