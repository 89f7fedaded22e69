# weft_libtorch: libtorch, for training. From a package (Debian's libtorch-dev, or the archive that
# pytorch.org has, named in CMAKE_PREFIX_PATH), or from an unpacked wheel (WEFT_TORCH_WHEEL): the
# CMake files in wheels for CUDA look for a CUDA compiler, which nothing here needs.
if(WEFT_TORCH_WHEEL)
  if(NOT EXISTS ${WEFT_TORCH_WHEEL}/lib/libtorch_cpu.so)
    message(FATAL_ERROR "WEFT_TORCH_WHEEL is ${WEFT_TORCH_WHEEL}, which has no lib/libtorch_cpu.so")
  endif()
  add_library(weft_libtorch INTERFACE)
  # Wheels bring headers of other libraries too (fmt), of other versions than those that the rooms
  # below are built with: a folder of links to libtorch's own.
  set(torch_headers ${CMAKE_BINARY_DIR}/torch-headers)
  file(MAKE_DIRECTORY ${torch_headers})
  foreach(name ATen c10 caffe2 torch)
    file(CREATE_LINK ${WEFT_TORCH_WHEEL}/include/${name} ${torch_headers}/${name} SYMBOLIC)
  endforeach()
  target_include_directories(weft_libtorch SYSTEM INTERFACE ${torch_headers}
                             ${torch_headers}/torch/csrc/api/include)
  target_link_directories(weft_libtorch INTERFACE ${WEFT_TORCH_WHEEL}/lib)
  # Kernels register themselves when their library is loaded, so all are linked, used or not. What the
  # wheel's libraries need in turn (CUDA's run time, from other wheels) the loader finds.
  target_link_libraries(weft_libtorch INTERFACE -Wl,--no-as-needed torch_cpu c10)
  if(EXISTS ${WEFT_TORCH_WHEEL}/lib/libtorch_cuda.so)
    target_link_libraries(weft_libtorch INTERFACE torch_cuda c10_cuda)
  endif()
  target_link_libraries(weft_libtorch INTERFACE torch -Wl,--as-needed)
  target_link_options(weft_libtorch INTERFACE -Wl,-rpath,${WEFT_TORCH_WHEEL}/lib
                      -Wl,--allow-shlib-undefined)
  message(STATUS "weft-train: libtorch of the wheel in ${WEFT_TORCH_WHEEL}")
else()
  find_package(Torch QUIET)
  if(Torch_FOUND)
    add_library(weft_libtorch INTERFACE)
    target_include_directories(weft_libtorch SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
    target_link_libraries(weft_libtorch INTERFACE ${TORCH_LIBRARIES})
    message(STATUS "weft-train: libtorch of ${Torch_DIR}")
    # Attention on a CPU multiplies by BLAS. (Wheels have one inside that nobody else can call, and
    # attention of their own.)
    find_package(BLAS QUIET)
    if(BLAS_FOUND)
      target_link_libraries(weft_libtorch INTERFACE BLAS::BLAS)
      target_compile_definitions(weft_libtorch INTERFACE WEFT_HAVE_BLAS)
    endif()
  else()
    message(STATUS "weft-train is left out, since libtorch is not found: install libtorch-dev "
            "(Debian), or name an unpacked libtorch in CMAKE_PREFIX_PATH")
  endif()
endif()

# at::parallel_for is a loop on one core in what is compiled without OpenMP (functions.cc looks).
if(TARGET weft_libtorch)
  find_package(OpenMP REQUIRED COMPONENTS CXX)
  target_link_libraries(weft_libtorch INTERFACE OpenMP::OpenMP_CXX)
endif()
