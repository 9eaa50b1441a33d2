# The CUDA emulator and what is tested on it (tests/simt). g++ only: no toolkit, no device.
# SPDX-License-Identifier: Apache-2.0
enable_language(CXX)

set(simt_dir ${CMAKE_SOURCE_DIR}/tests/simt)
# Kernels as plain C++: no contraction, so that the bits are a device's. Checked: every load and store of a kernel
# calls the emulator (the hooks of -fsanitize=thread, which is not linked).
set(simt_flags -std=c++20 -O2 -g -march=native -ffp-contract=off -fno-strict-aliasing -fno-exceptions -fno-rtti -Wall -Wextra
    -Wno-parentheses -Wno-missing-field-initializers -Wno-unknown-pragmas -Wno-pedantic)
set(simt_checked -DSIMT_CHECK -fsanitize=thread --param tsan-instrument-func-entry-exit=0 -fno-threadsafe-statics)

add_library(simt STATIC ${simt_dir}/simt.cc ${simt_dir}/runtime.cc)
target_compile_options(simt PRIVATE -std=c++20 -O3 -g -march=native -ffp-contract=off -Wall -Wextra -Wno-parentheses
                       -Wno-missing-field-initializers)
target_include_directories(simt PUBLIC ${simt_dir})
target_link_libraries(simt PUBLIC ${CMAKE_DL_LIBS})

# simt_program(NAME CHECKED SOURCES...)
function(simt_program name is_checked)
  set_source_files_properties(${ARGN} PROPERTIES LANGUAGE CXX)
  add_executable(${name} ${ARGN})
  target_compile_options(${name} PRIVATE -x c++ ${simt_flags})
  if(is_checked)
    target_compile_options(${name} PRIVATE ${simt_checked} -DCHECKED)
  endif()
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/src ${simt_dir})
  target_link_libraries(${name} PRIVATE simt)
  target_link_options(${name} PRIVATE -rdynamic)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
endfunction()

function(simt_test name label)
  add_test(NAME ${name} COMMAND ${ARGN})
  set_tests_properties(${name} PROPERTIES LABELS "${label}" TIMEOUT 600)
endfunction()

# The emulator itself: planted faults are found, their clean twins are silent, mma adds as published.
simt_program(simt_faults OFF ${simt_dir}/faults.cu)
simt_program(simt_faults_checked ON ${simt_dir}/faults.cu)
foreach(seed 0 1 2)
  simt_test(simt_faults_${seed} quick ${CMAKE_COMMAND} -E env SIMT_SEED=${seed} $<TARGET_FILE:simt_faults>)
  simt_test(simt_faults_checked_${seed} quick ${CMAKE_COMMAND} -E env SIMT_SEED=${seed}
            $<TARGET_FILE:simt_faults_checked>)
endforeach()
simt_program(simt_probe OFF ${simt_dir}/probe.cu)
simt_test(simt_adder slow sh -c
          "$<TARGET_FILE:simt_probe> mma.bits 40 && python3 ${simt_dir}/probe_check.py mma.bits")
add_dependencies(tests_quick simt_faults simt_faults_checked simt_probe)

# The flag protocol between ranks, under a checker of the C++11 memory model. Its three faults have to be found.
find_path(RELACY_DIR relacy/relacy.hpp)
if(RELACY_DIR)
  foreach(bug 0 1 2 3)
    add_executable(simt_exchange_${bug} ${simt_dir}/exchange.cc)
    target_compile_options(simt_exchange_${bug} PRIVATE -std=c++14 -O2 -w)
    target_include_directories(simt_exchange_${bug} SYSTEM PRIVATE ${RELACY_DIR})
    target_compile_definitions(simt_exchange_${bug} PRIVATE BUG=${bug})
    set_target_properties(simt_exchange_${bug} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
    simt_test(simt_exchange_${bug} quick $<TARGET_FILE:simt_exchange_${bug}>)
    add_dependencies(tests_quick simt_exchange_${bug})
    if(bug)
      set_tests_properties(simt_exchange_${bug} PROPERTIES WILL_FAIL TRUE)
    endif()
  endforeach()
endif()

# The back end on the emulator, twice: as it is, and with every load and store of its kernels looked at.
file(GLOB cuda_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/backend/cuda/*.cu)
set_source_files_properties(${cuda_sources} PROPERTIES LANGUAGE CXX)
foreach(kind fast checked)
  add_library(cuda_${kind} OBJECT ${cuda_sources})
  target_compile_options(cuda_${kind} PRIVATE -x c++ ${simt_flags})
  target_include_directories(cuda_${kind} PRIVATE ${CMAKE_SOURCE_DIR}/src ${simt_dir})
endforeach()
target_compile_options(cuda_checked PRIVATE ${simt_checked})

# emulated(NAME KIND SOURCE): a program of C with the back end "cuda" in it
function(emulated name kind source)
  add_executable(${name} ${source} $<TARGET_OBJECTS:cuda_${kind}>)
  target_link_libraries(${name} PRIVATE ${support_lib} quern_all simt PkgConfig::CMOCKA)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests)
  target_compile_definitions(${name} PRIVATE QN_TEST_DIR="${CMAKE_SOURCE_DIR}/tests"
                             QN_SOURCE_DIR="${CMAKE_SOURCE_DIR}" QN_TEST_CUDA)
  target_link_options(${name} PRIVATE -rdynamic)
  set_target_properties(${name} PROPERTIES LINKER_LANGUAGE CXX RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
endfunction()

# The whole program with --device cuda.
emulated(quern-simt fast ${CMAKE_SOURCE_DIR}/src/cli/main.c)

# Every operation and whole steps against ref, every access checked, in three orders of blocks, warps and lanes.
emulated(simt_kern_checked checked ${CMAKE_SOURCE_DIR}/tests/kern/test_backend.c)
foreach(seed 0 1 2)
  simt_test(simt_kern_${seed} slow ${CMAKE_COMMAND} -E env SIMT_SEED=${seed} $<TARGET_FILE:simt_kern_checked> cuda)
endforeach()
# The tests that cpu passes.
emulated(simt_golden fast ${CMAKE_SOURCE_DIR}/tests/golden/test_model.c)
emulated(simt_rows fast ${CMAKE_SOURCE_DIR}/tests/prop/test_rows.c)
emulated(simt_formats fast ${CMAKE_SOURCE_DIR}/tests/prop/test_formats.c)
emulated(simt_answer fast ${CMAKE_SOURCE_DIR}/tests/prop/test_answer.c)
simt_test(simt_golden slow $<TARGET_FILE:simt_golden>)
simt_test(simt_rows slow $<TARGET_FILE:simt_rows>)
simt_test(simt_formats slow $<TARGET_FILE:simt_formats>)
simt_test(simt_answer slow ${CMAKE_COMMAND} -E env QUERN_TEST=test_one_answer_m* QUERN_COMBINATIONS=1000
          $<TARGET_FILE:simt_answer>)
set_tests_properties(simt_answer PROPERTIES TIMEOUT 3600 COST 1000)
# The same bits whatever the order in which blocks run.
simt_test(simt_orders slow ${CMAKE_SOURCE_DIR}/tests/simt/orders.sh $<TARGET_FILE:quern-simt> ${CMAKE_SOURCE_DIR})

# The same programs for a device (tools/device_check.sh).
if(QUERN_CUDA_OBJECTS)
  add_custom_target(device_programs)
  foreach(pair kern:kern/test_backend golden:golden/test_model rows:prop/test_rows formats:prop/test_formats
          answer:prop/test_answer)
    string(REPLACE ":" ";" pair ${pair})
    list(GET pair 0 name)
    list(GET pair 1 path)
    add_executable(device_${name} EXCLUDE_FROM_ALL ${CMAKE_SOURCE_DIR}/tests/${path}.c)
    target_link_libraries(device_${name} PRIVATE ${support_lib} quern_all PkgConfig::CMOCKA)
    target_include_directories(device_${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests)
    target_compile_definitions(device_${name} PRIVATE QN_TEST_DIR="${CMAKE_SOURCE_DIR}/tests"
                               QN_SOURCE_DIR="${CMAKE_SOURCE_DIR}" QN_TEST_CUDA)
    quern_link_cuda(device_${name})
    set_target_properties(device_${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
    add_dependencies(device_programs device_${name})
  endforeach()
  add_custom_command(OUTPUT ${CMAKE_BINARY_DIR}/tests/device_probe
    COMMAND ${QUERN_NVCC} ${cuda_flags} ${cuda_gencode} -x cu ${simt_dir}/probe.cu -cudart static
            -o ${CMAKE_BINARY_DIR}/tests/device_probe
    DEPENDS ${simt_dir}/probe.cu VERBATIM)
  add_custom_target(device_probe_built DEPENDS ${CMAKE_BINARY_DIR}/tests/device_probe)
  add_dependencies(device_programs device_probe_built)
endif()

# The server over the emulated device.
simt_test(simt_serving slow ${simt_dir}/serving.py $<TARGET_FILE:quern-simt> ${CMAKE_SOURCE_DIR}/models/mini)
