# The CUDA emulator and what is tested on it (tests/simt). g++ only: no toolkit, no device.
# SPDX-License-Identifier: Apache-2.0
enable_language(CXX)

set(simt_dir ${CMAKE_SOURCE_DIR}/tests/simt)
# Kernels as plain C++: no contraction, so that the bits are a device's. Checked: every load and store of a kernel
# calls the emulator (the hooks of -fsanitize=thread, which is not linked).
set(simt_flags -std=c++20 -O2 -g -march=native -ffp-contract=off -fno-exceptions -fno-rtti -Wall -Wextra
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
