# Tests mirror src/. Each unit test file is one program and one ctest entry with the label "quick".
# SPDX-License-Identifier: Apache-2.0
set(QUERN_TIMEOUT_TIMES 1 CACHE STRING "Times the tests' time limits (make test-long)")
pkg_check_modules(CMOCKA REQUIRED IMPORTED_TARGET cmocka)

file(GLOB support CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/support/*.c)
if(support)
  add_library(qn_support STATIC ${support})
  target_link_libraries(qn_support PUBLIC quern_all PkgConfig::CMOCKA)
  target_include_directories(qn_support PUBLIC ${CMAKE_SOURCE_DIR}/tests)
  target_compile_definitions(qn_support PRIVATE QN_TEST_DIR="${CMAKE_SOURCE_DIR}/tests")
  set(support_lib qn_support)
endif()

# The server over the scripted backend, for tests/e2e.
add_executable(quern-fake ${CMAKE_SOURCE_DIR}/tests/fake/quern_fake.c)
target_link_libraries(quern-fake PRIVATE qn_support quern_all)

# Builds what ctest -L quick runs, and of it what has threads (make check).
add_custom_target(tests_quick)
add_custom_target(tests_threads)

function(quern_test path prefix label timeout)
  get_filename_component(stem ${path} NAME_WE)
  string(REGEX REPLACE "^test_" "" stem ${stem})
  set(name ${prefix}_${stem})
  add_executable(${name} ${path})
  target_link_libraries(${name} PRIVATE ${support_lib} quern_all PkgConfig::CMOCKA)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests)
  target_compile_definitions(${name} PRIVATE QN_TEST_DIR="${CMAKE_SOURCE_DIR}/tests"
                             QN_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME ${name} COMMAND ${name})
  if(label STREQUAL "quick")
    add_dependencies(tests_quick ${name})
  endif()
  if(name MATCHES "^unit_(base|dist|engine|server|backend)_")
    set(label ${label} threads)
    add_dependencies(tests_threads ${name})
  endif()
  if(CMAKE_CROSSCOMPILING) # emulated
    math(EXPR timeout "${timeout} * 20")
  endif()
  math(EXPR timeout "${timeout} * ${QUERN_TIMEOUT_TIMES}")
  set_tests_properties(${name} PROPERTIES LABELS "${label}" TIMEOUT ${timeout} SKIP_RETURN_CODE 77)
endfunction()

# tests/unit/<folder>/test_<file>.c -> unit_<folder>_<file>
file(GLOB unit_tests CONFIGURE_DEPENDS RELATIVE ${CMAKE_SOURCE_DIR}/tests/unit
     ${CMAKE_SOURCE_DIR}/tests/unit/*/test_*.c)
foreach(path ${unit_tests})
  get_filename_component(folder ${path} DIRECTORY)
  quern_test(tests/unit/${path} unit_${folder} quick 60)
endforeach()

# tests/golden, tests/prop, tests/kern: slower, label "slow".
foreach(kind golden prop kern)
  file(GLOB slow_tests CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/${kind}/test_*.c)
  foreach(path ${slow_tests})
    quern_test(${path} ${kind} slow 600)
  endforeach()
endforeach()

# Fuzz targets: replayed over their corpus in ordinary builds, libFuzzer programs in the fuzz preset. Those of the
# API share a server without a model (tests/fuzz/api.c).
file(GLOB fuzz_targets CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/fuzz/fuzz_*.c)
foreach(path ${fuzz_targets})
  get_filename_component(name ${path} NAME_WE)
  string(REPLACE "fuzz_" "" noun ${name})
  if(QUERN_FUZZ)
    add_executable(${name} ${path})
    target_link_libraries(${name} PRIVATE ${support_lib} quern_all)
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  else()
    add_executable(${name} ${path} ${CMAKE_SOURCE_DIR}/tests/fuzz/replay.c)
    target_link_libraries(${name} PRIVATE ${support_lib} quern_all)
    add_test(NAME ${name} COMMAND ${name} ${CMAKE_SOURCE_DIR}/tests/fuzz/corpus/${noun})
    set_tests_properties(${name} PROPERTIES LABELS quick TIMEOUT 120)
    add_dependencies(tests_quick ${name})
  endif()
  if(noun MATCHES "^(api_|http$)")
    target_sources(${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests/fuzz/api.c)
    target_link_options(${name} PRIVATE -Wl,--wrap=qn_engine_info)
  endif()
  target_compile_definitions(${name} PRIVATE QN_TEST_DIR="${CMAKE_SOURCE_DIR}/tests")
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
endforeach()

add_test(NAME include_check COMMAND python3 ${CMAKE_SOURCE_DIR}/tools/check_includes.py ${CMAKE_SOURCE_DIR})
set_tests_properties(include_check PROPERTIES LABELS quick)
add_test(NAME docs_check COMMAND python3 ${CMAKE_SOURCE_DIR}/tools/check_docs.py ${CMAKE_SOURCE_DIR})
set_tests_properties(docs_check PROPERTIES LABELS quick)

# CUDA kernels on the emulator. Fibers and sanitizers do not mix, and the flags are those of this machine.
if(NOT CMAKE_CROSSCOMPILING AND NOT QUERN_SANITIZE AND NOT QUERN_FUZZ)
  include(cmake/simt.cmake)
endif()

# Not a test: how fast pictures are looked at (bench/vision-2026-12.md).
add_executable(tower_speed EXCLUDE_FROM_ALL ${CMAKE_SOURCE_DIR}/tests/kern/tower_speed.c)
target_link_libraries(tower_speed PRIVATE quern_all)
set_target_properties(tower_speed PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
