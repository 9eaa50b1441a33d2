# Micro-kernel files get their instruction set individually; everything else is built for the baseline.
# SPDX-License-Identifier: Apache-2.0
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(kernel_flags_avx2 -O3 -mavx2 -mfma -mf16c)
  set(kernel_flags_avx512 -O3 -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq)
  set(kernel_flags_avx512bf16 ${kernel_flags_avx512} -mavx512bf16 -mavx512vnni -mavx512vbmi)
  foreach(isa avx2 avx512 avx512bf16)
    file(GLOB kernels CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/backend/cpu/*_${isa}.c)
    set_source_files_properties(${kernels} PROPERTIES COMPILE_OPTIONS "${kernel_flags_${isa}}")
  endforeach()
endif()

if(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  file(GLOB kernels CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/backend/cpu/*_neon.c)
  set_source_files_properties(${kernels} PROPERTIES COMPILE_OPTIONS "-O3;-march=armv8.2-a+dotprod")
endif()

# Kernels touch nothing but what they are given, and their tests put NaN behind it. Instrumenting these fully inlined
# files takes minutes of compile time each, so sanitizers leave them out.
if(QUERN_SANITIZE)
  file(GLOB kernels CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/backend/cpu/kern_*.c
       ${CMAKE_SOURCE_DIR}/src/backend/cpu/pack_*.c)
  set_property(SOURCE ${kernels} APPEND PROPERTY COMPILE_OPTIONS -fno-sanitize=all)
endif()
